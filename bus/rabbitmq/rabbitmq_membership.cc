#include "bus/rabbitmq/rabbitmq_membership.h"

#include <amqp.h>

#include <algorithm>
#include <map>
#include <optional>

#include "bus/group.h"
#include "bus/rabbitmq/link.h"
#include "core/bytes.h"

namespace leat::bus::rabbitmq {
namespace {

using Time = std::chrono::steady_clock::time_point;

constexpr amqp_channel_t kChannel = 1;
constexpr size_t kQueueNameBytesMax = 255;
// In heartbeats: what is held without a sign of the broker is lost after the first; a member of the
// same name, whose process was frozen or cut off, is gone after the second.
constexpr int kHeldHeartbeats = 2;
constexpr int kSameInstanceHeartbeats = 3;
constexpr int kJoinHeartbeats = 5;

Time Now() { return std::chrono::steady_clock::now(); }
amqp_bytes_t Bytes(std::string_view text) { return {text.size(), const_cast<char*>(text.data())}; }
std::string_view View(const amqp_bytes_t& bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

// The transport's options, for a connection that notices soon when its peer is gone.
RabbitMqOptions ForLeases(RabbitMqOptions options) {
  options.heartbeat_s = options.lease_heartbeat_s;
  options.timeout = std::min<std::chrono::milliseconds>(
      options.timeout, std::chrono::seconds(kHeldHeartbeats * options.heartbeat_s));
  return options;
}

class LeaseLink final : public Link {
 public:
  LeaseLink(const RabbitMqOptions& options, const TopicInfo& topic, std::string_view group,
            std::string_view instance)
      : Link(options, "group " + std::string(group)),
        group_(group),
        instance_(instance),
        heartbeat_(std::chrono::seconds(options.heartbeat_s)) {
    // A topic has dots, too: as a word of its own the group's name is told from it.
    std::string word(group);
    std::replace(word.begin(), word.end(), '.', ':');
    const std::string rest = word + "." + topic.name + ".";
    for (uint32_t partition = 0; partition < topic.partitions; ++partition) {
      leases_.push_back(
          {options.exchange + ".leases." + rest + std::to_string(partition), {}, {}, {}});
    }
    member_queue_ = options.exchange + ".members." + rest + instance_;
  }
  ~LeaseLink() override { Stop(); }

  Status CheckNames() const {
    for (const auto* name : {&leases_.back().queue, &member_queue_}) {
      if (name->size() <= kQueueNameBytesMax) continue;
      return Invalid("rabbitmq: the queue's name would be too long: " + *name,
                     "shorten the names of topic, group or member");
    }
    return {};
  }
  void Begin() { Start(); }

  Result<Share> Poll(std::chrono::milliseconds timeout);
  Status Release(uint32_t partition);
  void Wake() {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    changed_.notify_all();
  }

 private:
  // Of the thread.
  struct Lease {
    std::string queue;
    std::string consumer;           // tag of ours in that queue
    std::optional<uint64_t> token;  // delivery tag of the token that is ours
    Time renewed;
  };
  // A partition that is ours, as far as one knows.
  struct Holding {
    std::optional<Time> until;  // the connection was lost: so long
    bool offered = false;       // to be released
  };

  Status OnConnected(Connection* connection) override;
  Status OnMethod(Connection* connection, const amqp_frame_t& frame) override;
  Status OnPause(Connection* connection) override;
  void OnLost(const Error& error) override;

  Status TakeName(Connection* connection);
  Status Consume(Connection* connection, uint32_t partition);
  Status Candidates(Connection* connection, const Lease& lease, uint32_t* count);
  // To the next member in the line; ours is its end then.
  Status PassOn(Connection* connection, uint32_t partition);
  Status GiveBack(Connection* connection, uint64_t token);
  size_t FairShare(uint32_t candidates) const {
    return (leases_.size() + candidates - 1) / std::max(candidates, 1u);
  }

  // With mutex_ held.
  bool IsHeld(const Holding& holding, Time now) const {
    return now <= holding.until.value_or(alive_ + kHeldHeartbeats * heartbeat_);
  }
  Share ShareAt(Time now) const;
  void Offer();

  const std::string group_;
  const std::string instance_;
  const std::chrono::seconds heartbeat_;
  std::string member_queue_;

  // Of the thread.
  std::vector<Lease> leases_;  // by partition
  uint64_t consumers_ = 0;     // numbers their tags
  Time checked_;
  std::optional<Time> name_taken_since_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint32_t, Holding> held_;  // guarded by mutex_
  Time alive_;                        // the broker answered what was asked then; guarded by mutex_
  uint32_t candidates_ = 1;           // guarded by mutex_
  Share told_;                        // guarded by mutex_
  Status failure_;                    // guarded by mutex_; ended the membership
  bool woken_ = false;                // guarded by mutex_
};

// While it exists no other connection can make it, and with ours it is gone.
Status LeaseLink::TakeName(Connection* connection) {
  amqp_queue_declare(connection->state(), kChannel, Bytes(member_queue_), 0, 0, 1, 1,
                     amqp_empty_table);
  const auto taken = connection->Reply("joining group " + group_);
  if (taken || taken.error().error_class != ErrorClass::kConflict) {
    name_taken_since_.reset();
    return taken;
  }
  // It may be our own connection before this one, or a process that ended just now.
  if (!name_taken_since_) name_taken_since_ = Now();
  if (Now() < *name_taken_since_ + kSameInstanceHeartbeats * heartbeat_) {
    return Fail(ErrorClass::kUnavailable, taken.error().message);
  }
  {
    std::lock_guard lock(mutex_);
    failure_ = SameInstance(group_, instance_);
    held_.clear();
  }
  changed_.notify_all();
  return SameInstance(group_, instance_);
}

Status LeaseLink::Consume(Connection* connection, uint32_t partition) {
  Lease& lease = leases_[partition];
  lease.consumer = std::to_string(partition) + "/" + std::to_string(++consumers_);
  lease.token.reset();
  amqp_basic_consume(connection->state(), kChannel, Bytes(lease.queue), Bytes(lease.consumer), 0, 0,
                     0, amqp_empty_table);
  return connection->Reply("waiting for " + lease.queue);
}

Status LeaseLink::OnConnected(Connection* connection) {
  LEAT_TRY(connection->OpenChannel(kChannel));
  LEAT_TRY(TakeName(connection));
  amqp_basic_qos(connection->state(), kChannel, 0, 1, 0);  // of each consumer
  LEAT_TRY(connection->Reply("prefetch"));
  for (uint32_t partition = 0; partition < leases_.size(); ++partition) {
    const std::string& queue = leases_[partition].queue;
    amqp_table_entry_t entries[2] = {};
    entries[0].key = amqp_cstring_bytes("x-single-active-consumer");
    entries[0].value.kind = AMQP_FIELD_KIND_BOOLEAN;
    entries[0].value.value.boolean = 1;
    // One token waits at most; one more than is needed is dropped.
    entries[1].key = amqp_cstring_bytes("x-max-length");
    entries[1].value.kind = AMQP_FIELD_KIND_I32;
    entries[1].value.value.i32 = 1;
    amqp_queue_declare(connection->state(), kChannel, Bytes(queue), 0, 1, 0, 0, {2, entries});
    LEAT_TRY(connection->Reply("declaring " + queue));
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    LEAT_TRY(
        connection->Check(amqp_basic_publish(connection->state(), kChannel, amqp_empty_bytes,
                                             Bytes(queue), 0, 0, &properties, Bytes(instance_)),
                          "publishing a token"));
    LEAT_TRY(Consume(connection, partition));
  }
  std::lock_guard lock(mutex_);
  alive_ = Now();
  checked_ = {};
  return {};
}

void LeaseLink::OnLost(const Error&) {
  {
    std::lock_guard lock(mutex_);
    for (auto& [partition, holding] : held_) {
      if (!holding.until) holding.until = alive_ + kHeldHeartbeats * heartbeat_;
    }
  }
  changed_.notify_all();
}

Status LeaseLink::GiveBack(Connection* connection, uint64_t token) {
  constexpr amqp_boolean_t kRequeue = 1;
  return connection->Check(amqp_basic_nack(connection->state(), kChannel, token, 0, kRequeue),
                           "giving a token back");
}

Status LeaseLink::PassOn(Connection* connection, uint32_t partition) {
  Lease& lease = leases_[partition];
  const auto token = lease.token;
  {
    std::lock_guard lock(mutex_);
    held_.erase(partition);  // renewed since it was released
  }
  amqp_basic_cancel(connection->state(), kChannel, Bytes(lease.consumer));
  LEAT_TRY(connection->Reply("leaving " + lease.queue));
  if (token) LEAT_TRY(GiveBack(connection, *token));
  return Consume(connection, partition);
}

Status LeaseLink::Candidates(Connection* connection, const Lease& lease, uint32_t* count) {
  const Time asked = Now();
  const auto* const found = amqp_queue_declare(connection->state(), kChannel, Bytes(lease.queue), 1,
                                               0, 0, 0, amqp_empty_table);
  LEAT_TRY(connection->Reply("counting the members at " + lease.queue));
  *count = std::max(found->consumer_count, 1u);
  std::lock_guard lock(mutex_);
  alive_ = asked;
  return {};
}

Status LeaseLink::OnMethod(Connection* connection, const amqp_frame_t& frame) {
  const auto& method = frame.payload.method;
  if (method.id == AMQP_BASIC_CANCEL_METHOD)
    return Fail(ErrorClass::kUnavailable, "rabbitmq: a lease queue was deleted");
  if (method.id != AMQP_BASIC_DELIVER_METHOD) return {};
  const auto* const deliver = static_cast<const amqp_basic_deliver_t*>(method.decoded);
  const uint64_t token = deliver->delivery_tag;
  const std::string consumer(View(deliver->consumer_tag));
  amqp_message_t message;
  LEAT_TRY(connection->Check(amqp_read_message(connection->state(), frame.channel, &message, 0),
                             "reading a token"));
  amqp_destroy_message(&message);
  const auto number = core::ParseUint64(std::string_view(consumer).substr(0, consumer.find('/')));
  if (!number || *number >= leases_.size() || leases_[*number].consumer != consumer) {
    return GiveBack(connection, token);  // sent before its consumer was cancelled
  }
  const auto partition = static_cast<uint32_t>(*number);
  Lease& lease = leases_[partition];
  lease.token = token;
  lease.renewed = Now();
  size_t others;  // that are held besides
  bool is_held;
  {
    std::lock_guard lock(mutex_);
    is_held = held_.contains(partition);
    others = held_.size() - (is_held ? 1 : 0);
  }
  if (!is_held && others > 0) {
    uint32_t candidates = 1;
    LEAT_TRY(Candidates(connection, lease, &candidates));
    // Somebody else has less: the line goes on until the token comes to them.
    if (others >= FairShare(candidates)) return PassOn(connection, partition);
  }
  {
    std::lock_guard lock(mutex_);
    held_[partition].until.reset();
  }
  changed_.notify_all();
  return {};
}

// With mutex_ held. What was offered stays so: its owner may be ending its work by now.
void LeaseLink::Offer() {
  const size_t fair = FairShare(candidates_);
  size_t kept = 0;
  for (const auto& [partition, holding] : held_) kept += holding.offered ? 0 : 1;
  for (auto one = held_.rbegin(); one != held_.rend() && kept > fair; ++one) {
    if (one->second.offered) continue;
    one->second.offered = true;
    --kept;
  }
}

Status LeaseLink::OnPause(Connection* connection) {
  const Time now = Now();
  {
    std::lock_guard lock(mutex_);
    if (now > alive_ + kHeldHeartbeats * heartbeat_) {
      return Fail(ErrorClass::kUnavailable,
                  "rabbitmq: nothing was heard for two heartbeats (was this process paused?)");
    }
  }
  if (now < checked_ + heartbeat_ / 2) return {};
  checked_ = now;
  uint32_t candidates = 1;
  LEAT_TRY(Candidates(connection, leases_.front(), &candidates));
  for (Lease& lease : leases_) {
    if (!lease.token || now < lease.renewed + options_.lease_renewal) continue;
    // It comes back to the active consumer, which is this one.
    LEAT_TRY(GiveBack(connection, *lease.token));
    lease.token.reset();
  }
  {
    std::lock_guard lock(mutex_);
    candidates_ = candidates;
    std::erase_if(held_, [&](const auto& one) { return !IsHeld(one.second, now); });
    Offer();
  }
  changed_.notify_all();
  return {};
}

Share LeaseLink::ShareAt(Time now) const {
  Share share;
  for (const auto& [partition, holding] : held_) {
    if (!IsHeld(holding, now)) continue;
    share.held.insert(partition);
    if (holding.offered) share.to_release.insert(partition);
  }
  return share;
}

Result<Share> LeaseLink::Poll(std::chrono::milliseconds timeout) {
  const Time deadline = Now() + timeout;
  std::unique_lock lock(mutex_);
  Share share;
  for (;;) {
    const Time now = Now();
    share = ShareAt(now);
    if (woken_ || !failure_ || share != told_ || now >= deadline) break;
    Time until = deadline;  // or the next moment at which something is lost
    for (const auto& [partition, holding] : held_) {
      const Time end = holding.until.value_or(alive_ + kHeldHeartbeats * heartbeat_);
      if (end >= now) until = std::min(until, end + std::chrono::milliseconds(1));
    }
    changed_.wait_until(lock, until);
  }
  woken_ = false;
  LEAT_TRY(failure_);
  if (share == told_ && share.held.empty()) {
    lock.unlock();
    LEAT_TRY(status());
    return share;
  }
  told_ = share;
  return share;
}

Status LeaseLink::Release(uint32_t partition) {
  {
    std::lock_guard lock(mutex_);
    LEAT_TRY(failure_);
    const auto found = held_.find(partition);
    if (found == held_.end()) return {};  // it was lost
    if (!found->second.offered) return NotToBeReleased(partition);
    held_.erase(found);
    told_.held.erase(partition);
    told_.to_release.erase(partition);
  }
  Post([this, partition](Connection* connection) { return PassOn(connection, partition); });
  return {};
}

class RabbitMqMembership final : public Membership {
 public:
  RabbitMqMembership(const RabbitMqOptions& options, const TopicInfo& topic, std::string_view group,
                     std::string_view instance)
      : options_(ForLeases(options)), link_(options_, topic, group, instance) {}

  Status Start() {
    LEAT_TRY(link_.CheckNames());
    link_.Begin();
    return link_.WaitConnected(kJoinHeartbeats * std::chrono::seconds(options_.heartbeat_s));
  }
  Result<Share> Poll(std::chrono::milliseconds timeout) override { return link_.Poll(timeout); }
  Status Release(uint32_t partition) override { return link_.Release(partition); }
  Status Commit(uint32_t, uint64_t) override { return {}; }  // nobody could see it
  void Wake() override { link_.Wake(); }

 private:
  const RabbitMqOptions options_;
  LeaseLink link_;  // uses the options
};

}  // namespace

Result<std::unique_ptr<Membership>> JoinGroup(const RabbitMqOptions& options,
                                              const TopicInfo& topic, std::string_view group,
                                              std::string_view instance) {
  auto membership = std::make_unique<RabbitMqMembership>(options, topic, group, instance);
  LEAT_TRY(membership->Start());
  return membership;
}

}  // namespace leat::bus::rabbitmq
