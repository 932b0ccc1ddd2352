#include "runtime/role.h"

#include <algorithm>

#include "core/log.h"
#include "runtime/retry.h"

namespace leat::runtime {
namespace {

constexpr auto kMembershipStep = std::chrono::milliseconds(200);
constexpr auto kCommitInterval = std::chrono::seconds(1);
constexpr auto kRetryPause = std::chrono::milliseconds(500);
// Whoever took it over may well be in the right: by then the membership has heard of it.
constexpr auto kFencedPause = std::chrono::milliseconds(2000);
// Less than any session: a broker forgets nobody in it.
constexpr auto kFencedSoon = std::chrono::milliseconds(5000);
// How often a part that is at work is looked after.
constexpr auto kLook = std::chrono::milliseconds(100);

}  // namespace

std::string_view PartStateName(PartState state) {
  switch (state) {
    case PartState::kResting: return "resting";
    case PartState::kFollowing: return "following";
    case PartState::kTaking: return "taking";
    case PartState::kOwned: return "owned";
    case PartState::kFailed: return "failed";
  }
  return "";
}

Result<std::unique_ptr<Role>> Role::Open(const RoleOptions& options, const OpenPart& open) {
  std::unique_ptr<Role> role(new Role(options));
  for (uint32_t i = 0; i < options.partitions; ++i) {
    auto host = std::make_unique<Host>();
    host->partition = i;
    LEAT_ASSIGN(host->part, open(i));
    role->hosts_.push_back(std::move(host));
  }
  return role;
}

Role::~Role() { Stop(); }

Status Role::OwnAll() {
  for (const auto& host : hosts_) {
    LEAT_TRY(host->part->Own({}));
    host->state = PartState::kOwned;
  }
  return {};
}

void Role::Join(bus::Transport* transport, const std::string& instance, OnOwned on_owned) {
  joined_ = true;
  on_owned_ = std::move(on_owned);
  for (const auto& host : hosts_) {
    SetTarget(host.get(), idle());
    host->thread = std::jthread(
        [this, host = host.get()](const std::stop_token& stop) { RunHost(stop, host); });
  }
  membership_ = std::jthread([this, transport, instance](const std::stop_token& stop) {
    RunMembership(stop, transport, instance);
  });
}

void Role::Stop() {
  for (const auto& host : hosts_) {
    host->thread.request_stop();
    std::lock_guard lock(host->mutex);
    host->attempt.request_stop();
  }
  for (const auto& host : hosts_) {
    if (host->thread.joinable()) host->thread.join();
    Rest(host.get());
  }
  // Left last: nobody else begins before the work here has ended.
  membership_.request_stop();
  if (membership_.joinable()) membership_.join();
}

Status Role::error() const {
  {
    std::lock_guard lock(mutex_);
    LEAT_TRY(failed_);
  }
  for (const auto& host : hosts_) {
    {
      std::lock_guard lock(host->mutex);
      LEAT_TRY(host->failed);
    }
    // Of one that is at work in a group, its host sees to it.
    if (!joined_) LEAT_TRY(host->part->error());
  }
  return {};
}

void Role::SetTarget(Host* host, Target target) {
  {
    std::lock_guard lock(host->mutex);
    if (host->target == target) return;
    host->target = target;
    host->settled = false;
    host->attempt.request_stop();
    host->attempt = std::stop_source();
    host->failed = {};
  }
  host->changed.notify_all();
}

void Role::Rest(Host* host) {
  if (host->state == PartState::kOwned && on_owned_) {
    // It only ends what was begun.
    if (auto ended = on_owned_(host->partition, false); !ended) {
      core::LogWarning(options_.name, ended.error().Text());
    }
  }
  host->part->Rest();
  host->state = PartState::kResting;
}

Status Role::Move(const std::stop_token& stop, Host* host, Target target,
                  const std::stop_token& attempt) {
  const std::string who = options_.name + "-" + std::to_string(host->partition);
  Rest(host);
  if (target == Target::kRest || stop.stop_requested()) return {};
  if (target == Target::kFollow) {
    LEAT_TRY(host->part->Follow());
    host->state = PartState::kFollowing;
    return {};
  }
  host->state = PartState::kTaking;
  const auto begun = std::chrono::steady_clock::now();
  LEAT_TRY(host->part->Own(attempt));
  LEAT_TRY(on_owned_(host->partition, true));
  host->state = PartState::kOwned;
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - begun);
  core::LogInfo(who, "owned from here on, epoch " +
                         std::to_string(host->part->standing().epoch) + ", taken over in " +
                         std::to_string(took.count()) + " ms");
  return {};
}

void Role::RunHost(const std::stop_token& stop, Host* host) {
  const std::string who = options_.name + "-" + std::to_string(host->partition);
  Target now = Target::kRest;
  bool failed = false;  // for good, until the target changes
  std::unique_lock lock(host->mutex);
  while (!stop.stop_requested()) {
    const Target target = host->target;
    Status status;
    const bool moves = target != now;
    if (moves) {
      const std::stop_token attempt = host->attempt.get_token();
      lock.unlock();
      status = Move(stop, host, target, attempt);
      lock.lock();
      now = target;
      failed = false;
    } else if (!failed) {
      status = host->part->error();
    }
    if (status) {
      host->settled = host->target == now;
      host->changed.wait_for(lock, stop, kLook, [&] { return host->target != now; });
      continue;
    }
    if (host->target != target || stop.stop_requested()) continue;  // given up because of that
    const bool passes = status.error().Retryable() ||
                        status.error().error_class == ErrorClass::kConflict;
    core::LogWarning(who, (passes ? "tried again: " : "stopped: ") + status.error().Text());
    lock.unlock();
    Rest(host);
    lock.lock();
    host->state = passes ? PartState::kTaking : PartState::kFailed;
    if (passes) {
      // Others may be at it: the membership tells, in the meantime.
      now = Target::kRest;
      const bool fenced = status.error().error_class == ErrorClass::kConflict;
      host->changed.wait_for(lock, stop, fenced ? kFencedPause : kRetryPause,
                             [&] { return host->target != target; });
      if (host->target == Target::kRest) host->state = PartState::kResting;  // where it is
    } else {
      failed = true;
      host->failed = status;
    }
  }
}

void Role::RunMembership(const std::stop_token& stop, bus::Transport* transport,
                         const std::string& instance) {
  const std::string group = "leat." + options_.name;
  std::unique_ptr<bus::Membership> membership;
  const auto join = [&]() -> Status {
    LEAT_ASSIGN(membership, transport->Join(options_.topic, group, instance));
    return {};
  };
  auto committed = std::chrono::steady_clock::now();
  auto joined_at = committed;
  const auto rest_all = [&] {
    for (const auto& host : hosts_) SetTarget(host.get(), idle());
  };
  while (!stop.stop_requested()) {
    if (membership == nullptr) {
      if (auto joined = Retry(stop, group, join); !joined) {
        if (stop.stop_requested()) return;
        core::LogError(group, "stopped: " + joined.error().Text());
        std::lock_guard lock(mutex_);
        failed_ = std::move(joined);
        return;
      }
      joined_at = std::chrono::steady_clock::now();
    }
    const auto share = membership->Poll(kMembershipStep);
    if (!share) {
      if (share.error().Retryable()) continue;
      core::LogError(group, share.error().Text());
      rest_all();
      membership.reset();
      // Another process has our name: the newer one gives in. Or it was ourselves, before the broker went away.
      const auto lasted = std::chrono::steady_clock::now() - joined_at;
      if (share.error().error_class == ErrorClass::kConflict && lasted < kFencedSoon) {
        std::lock_guard lock(mutex_);
        failed_ = std::unexpected(share.error());
        return;
      }
      continue;
    }
    const auto failed = std::find_if(hosts_.begin(), hosts_.end(), [](const auto& host) {
      return host->state == PartState::kFailed;
    });
    if (failed != hosts_.end()) {
      // Others may do better; here somebody has to look.
      core::LogError(group, "a part has failed: the group is left");
      {
        std::scoped_lock lock(mutex_, (*failed)->mutex);
        failed_ = (*failed)->failed;
      }
      rest_all();
      return;
    }
    for (const auto& host : hosts_) {
      const bool wanted = share->to_release.contains(host->partition);
      const bool held = share->held.contains(host->partition) && !wanted;
      SetTarget(host.get(), held ? Target::kOwn : idle());
      if (!wanted) continue;
      if (!host->settled) continue;  // its work has not ended yet
      if (auto released = membership->Release(host->partition); !released) {
        core::LogWarning(group, released.error().Text());
      }
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - committed < kCommitInterval) continue;
    committed = now;
    for (const auto& host : hosts_) {
      if (host->state != PartState::kOwned) continue;
      // Only for people: the shard knows where it is.
      if (auto told = membership->Commit(host->partition, host->part->standing().done); !told) {
        core::Log(core::LogLevel::kDebug, group, told.error().Text());
      }
    }
  }
}

}  // namespace leat::runtime
