#include "runtime/cluster.h"

#include <algorithm>

#include "core/clock.h"
#include "core/log.h"
#include "events/registry.h"
#include "runtime/retry.h"
#include "runtime/v1/runtime.pb.h"

namespace leat::runtime {
namespace {

constexpr auto kRetention = std::chrono::hours(1);
// Enough to know of all that are there.
constexpr uint64_t kBacklog = 512;
constexpr size_t kInstancesMax = 10'000;
constexpr int kPartsMax = 16'384;  // of one instance
// A change of what is served is told within this.
constexpr auto kLook = std::chrono::milliseconds(50);

PartState StateOf(std::string_view name) {
  for (const auto state : {PartState::kFollowing, PartState::kTaking, PartState::kOwned,
                           PartState::kFailed}) {
    if (name == PartStateName(state)) return state;
  }
  return PartState::kResting;
}

// Of what is worth telling at once.
std::vector<PartState> StatesOf(const std::vector<PartStanding>& parts) {
  std::vector<PartState> states;
  for (const PartStanding& part : parts) states.push_back(part.state);
  return states;
}

}  // namespace

Result<std::unique_ptr<Cluster>> Cluster::Open(bus::Transport* transport) {
  std::unique_ptr<Cluster> cluster(new Cluster(transport));
  LEAT_TRY(transport->CreateTopic(kHeartbeatsTopic, 1, {.retention = kRetention}));
  LEAT_ASSIGN(const auto end, transport->End(kHeartbeatsTopic, 0));
  const uint64_t from = end.offset - std::min(end.offset, kBacklog);
  cluster->heard_to_ = from;
  cluster->listener_ = std::jthread(
      [cluster = cluster.get(), next = from, end](const std::stop_token& stop) mutable {
        const auto listen = [&] { return cluster->Listen(stop, &next, end.offset); };
        if (auto ended = Retry(stop, kHeartbeatsTopic, listen); !ended && !stop.stop_requested()) {
          core::LogError(kHeartbeatsTopic, "stopped: " + ended.error().Text());
        }
      });
  std::unique_lock lock(cluster->mutex_);
  // Not to be heard is no error: then nobody seems to be there.
  cluster->heard_.wait_for(lock, kHeartbeatMax,
                           [&] { return cluster->heard_to_ >= end.offset; });
  lock.unlock();
  return cluster;
}

void Cluster::Announce(Self self) {
  LEAT_ASSERT(!teller_.joinable());
  self_ = std::move(self);
  teller_ = std::jthread([this](const std::stop_token& stop) { Tell(stop); });
}

Cluster::~Cluster() {
  listener_.request_stop();
  teller_.request_stop();
}

void Cluster::SetAddress(const std::string& address) {
  std::lock_guard lock(mutex_);
  address_ = address;
}

Status Cluster::Listen(const std::stop_token& stop, uint64_t* next, uint64_t live_from) {
  LEAT_ASSIGN(auto subscription, transport_->Subscribe(kHeartbeatsTopic, 0, *next));
  std::stop_callback wake(stop, [&] { subscription->Wake(); });
  bus::MessageBatch batch;
  while (!stop.stop_requested()) {
    const auto polled = PollWithRetry(stop, kHeartbeatsTopic, subscription.get(), {}, &batch);
    if (!polled && polled.error().error_class == ErrorClass::kNotFound) {
      // The topic's retention has taken it: what is left is newer.
      LEAT_ASSIGN(const uint64_t first, transport_->OffsetAt(kHeartbeatsTopic, 0, 0));
      if (first <= *next) return Fail(ErrorClass::kUnavailable, polled.error().message);
      *next = first;
      subscription->Seek(*next);
      batch.Clear();
    } else {
      LEAT_TRY(polled);
      if (batch.messages.empty()) continue;
    }
    for (const bus::Message& message : batch.messages) {
      *next = message.offset + 1;
      if (message.event.type != events::kInstanceSeen) continue;
      Hear(message.event, message.offset >= live_from);
    }
    {
      std::lock_guard lock(mutex_);
      heard_to_ = *next;
    }
    heard_.notify_all();
  }
  return {};
}

void Cluster::Hear(const events::EventView& event, bool live) {
  v1::InstanceSeen seen;
  if (!seen.ParseFromArray(event.data.data(), static_cast<int>(event.data.size()))) return;
  if (seen.parts_size() > kPartsMax) return;
  Known known;
  known.heard = std::chrono::steady_clock::now();
  if (!live) {
    const auto ago = core::SystemClock().NowUs() - event.time_us;
    known.heard -= std::chrono::microseconds(std::max<int64_t>(ago, 0));
  }
  known.standing.instance = seen.instance();
  known.standing.address = seen.address();
  known.standing.seen_us = event.time_us;
  for (const auto& part : seen.parts()) {
    known.standing.parts.push_back(
        {part.role(), part.partition(), StateOf(part.state()),
         Standing{part.done(), part.published_end(), part.epoch()}});
  }
  std::lock_guard lock(mutex_);
  std::erase_if(known_, [&](const auto& one) {
    return known.heard - one.second.heard > 2 * kHeartbeatMax;
  });
  if (seen.leaves()) {
    known_.erase(seen.instance());
  } else if (known_.size() < kInstancesMax || known_.contains(seen.instance())) {
    known_[seen.instance()] = std::move(known);
  }
}

void Cluster::Tell(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::vector<PartState> told_states;
  std::chrono::steady_clock::time_point told;
  bool reachable = false;
  while (!stop.stop_requested()) {
    const auto parts = self_.parts();
    const auto now = std::chrono::steady_clock::now();
    if (auto states = StatesOf(parts); now - told >= kHeartbeatInterval || states != told_states) {
      const auto published = TellOnce(parts, false);
      reachable = published.has_value();
      // The next one is due soon.
      if (!published) {
        core::Log(core::LogLevel::kDebug, kHeartbeatsTopic, published.error().Text());
      }
      told = now;
      told_states = std::move(states);
    }
    std::unique_lock lock(mutex);
    stopped.wait_for(lock, stop, kLook, [] { return false; });
  }
  if (!reachable) return;  // the end is not waited for
  if (auto published = TellOnce({}, true); !published) {
    core::Log(core::LogLevel::kDebug, kHeartbeatsTopic, published.error().Text());
  }
}

Status Cluster::TellOnce(const std::vector<PartStanding>& parts, bool leaves) const {
  v1::InstanceSeen seen;
  seen.set_instance(self_.instance);
  {
    std::lock_guard lock(mutex_);
    seen.set_address(address_);
  }
  seen.set_leaves(leaves);
  for (const PartStanding& part : parts) {
    auto* out = seen.add_parts();
    out->set_role(part.role);
    out->set_partition(part.partition);
    out->set_state(std::string(PartStateName(part.state)));
    out->set_done(part.standing.done);
    out->set_published_end(part.standing.published_end);
    out->set_epoch(part.standing.epoch);
  }
  const std::string data = seen.SerializeAsString();
  const std::string id = core::NewUuid();
  events::EventView view;
  view.type = events::kInstanceSeen;
  view.id = id;
  view.source = "leat";
  view.subject = self_.instance;
  view.time_us = core::SystemClock().NowUs();
  view.data = data;
  return transport_->PublishTo(kHeartbeatsTopic, 0, {events::Event(view)});
}

std::vector<InstanceStanding> Cluster::Instances() const {
  const auto now = std::chrono::steady_clock::now();
  std::vector<InstanceStanding> out;
  std::lock_guard lock(mutex_);
  for (const auto& [name, known] : known_) {
    if (now - known.heard <= kHeartbeatMax) out.push_back(known.standing);
  }
  return out;
}

std::optional<PartStanding> Cluster::Owner(std::string_view role, uint32_t partition) const {
  const auto now = std::chrono::steady_clock::now();
  std::optional<PartStanding> newest;
  std::lock_guard lock(mutex_);
  for (const auto& [name, known] : known_) {
    if (now - known.heard > kHeartbeatMax) continue;
    for (const PartStanding& part : known.standing.parts) {
      if (part.role != role || part.partition != partition || part.state != PartState::kOwned) {
        continue;
      }
      // Two for a moment: the one who does not know yet that it has lost the partition has the lower epoch.
      // Of those without epochs, which only read, the one who has read more.
      const auto rank = [](const PartStanding& one) {
        return std::pair{one.standing.epoch, one.standing.done};
      };
      if (!newest || rank(part) >= rank(*newest)) newest = part;
    }
  }
  return newest;
}

bool Cluster::WaitUntil(const std::function<bool()>& reached,
                        std::chrono::milliseconds timeout) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!reached()) {
    std::unique_lock lock(mutex_);
    if (std::chrono::steady_clock::now() >= deadline) return false;
    heard_.wait_until(lock, std::min(deadline, std::chrono::steady_clock::now() + kLook));
  }
  return true;
}

}  // namespace leat::runtime
