// Owning a partition of a topic: claim it, bring its shard up to what is there, and relay the
// shard's log to it, by number and in order. Only for logs that are not mounted.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "bus/bus.h"
#include "eventstore/log.h"
#include "runtime/decider_runner.h"
#include "runtime/inbox.h"

namespace leat::runtime {

// What the owner of a partition knows of it: its epoch, and where its claim stands.
struct Ownership {
  uint64_t epoch = 0;
  InputPosition read;  // behind the claim: everything before it is in the shard's log
};

// Claims the partition, and rebuilds the shard from it: what its log lacks is appended and evolved.
// A decision that was published in part is decided again from its input, must begin with what was
// published, and is finished. `evolver` may be a Decider; another one has no decisions to finish.
// `progress` is called with events in the log. Nothing when the log has another event than the
// topic at some position: another owner went on from an earlier state, what differs was never
// acknowledged, and the shard is to be built anew from the topic. Errors: kConflict: another owner
// claims at the same time; kUnsupported: a decision would come out otherwise; kUnavailable, also
// when `stop` was requested; kCorrupt.
Result<std::optional<Ownership>> ClaimTopic(const std::stop_token& stop, Shard* shard,
                                            Evolver* evolver, bus::Transport* transport,
                                            const std::string& own_topic, uint32_t own_partition,
                                            const RunnerOptions& input,
                                            const std::function<void(uint64_t)>& progress);

// Keeps the shard up to its partition, which another process owns, until `stop` is requested, so
// that claiming it takes little. False when the log differs from the topic, as above. `status` tells
// how much of the log is there. Errors: kCorrupt, and those of a shard.
Result<bool> FollowTopic(const std::stop_token& stop, Shard* shard, Evolver* evolver,
                         bus::Transport* transport, const std::string& own_topic,
                         uint32_t own_partition, const RunnerOptions& input, RunnerStatus* status);

// Owns the thread. Shard and transport must outlive it. About once a second and when it is stopped the shard keeps how far its
// topic was read back: the next claim reads on from there.
class Relay {
 public:
  Relay(const Shard* shard, bus::Transport* transport, std::string topic, uint32_t partition,
        Ownership ownership);
  ~Relay();
  Status Start();
  // Ends the thread; the shard is not read any more. Not from two threads at once.
  void Stop();
  // Its `applied` is the position up to which the log is published and was read back, so that no
  // other owner's claim lies before it. Its error is kConflict when another owner took over, and when the topic has lost what
  // it had confirmed: the next claim reads it from its beginning, and what it lacks is published again.
  const RunnerStatus& status() const { return status_; }
  // Offset in the topic up to which it was read back; what status() tells lies before it.
  uint64_t read_to() const { return read_to_.load(std::memory_order_acquire); }

 private:
  Status Run(std::stop_token stop);
  Status PublishNext(eventstore::LogCursor* cursor);
  Status ReadBack(bus::Subscription* subscription, std::chrono::milliseconds timeout);
  // Up to the topic's end, which may be somewhat later.
  Status ReadBackAll(const std::stop_token& stop, bus::Subscription* subscription);
  void KeepPosition();
  std::unexpected<Error> Lost();

  const Shard* const shard_;
  bus::Transport* const transport_;
  const std::string topic_;
  const uint32_t partition_;
  const uint64_t epoch_;
  const std::string source_;
  InputPosition read_;      // of the topic; its next_position is how much of the log is there
  uint64_t kept_ = 0;       // its `next` that the shard has
  uint64_t published_ = 0;  // position of the next event to publish
  std::atomic<uint64_t> read_to_{0};
  RunnerStatus status_;
  std::jthread thread_;
};

}  // namespace leat::runtime
