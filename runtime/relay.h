// Owning a partition of a topic: claim it, bring its shard up to what is there, and relay the
// shard's log to it, by number and in order. Only for logs that are not mounted.
#pragma once

#include <functional>
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
// `progress` is called with events in the log. Errors: kConflict: the log has another event than
// the topic at some position, a decision would come out otherwise, or another owner claims at the
// same time; kCorrupt.
Result<Ownership> ClaimTopic(Shard* shard, Evolver* evolver, bus::Transport* transport,
                             const std::string& own_topic, uint32_t own_partition,
                             const RunnerOptions& input,
                             const std::function<void(uint64_t)>& progress);

// Owns the thread. Shard and transport must outlive it.
class Relay {
 public:
  Relay(const Shard* shard, bus::Transport* transport, std::string topic, uint32_t partition,
        Ownership ownership);
  ~Relay();
  Status Start();
  // Its `applied` is the position up to which the log is published and was read back, so that no
  // other owner's claim lies before it. Its error is kConflict when another owner took over.
  const RunnerStatus& status() const { return status_; }

 private:
  Status Run(std::stop_token stop);
  Status PublishNext(eventstore::LogCursor* cursor);
  Status ReadBack(bus::Subscription* subscription, std::chrono::milliseconds timeout);

  const Shard* const shard_;
  bus::Transport* const transport_;
  const std::string topic_;
  const uint32_t partition_;
  const uint64_t epoch_;
  const std::string source_;
  InputPosition read_;      // of the topic; its next_position is how much of the log is there
  uint64_t published_ = 0;  // position of the next event to publish
  RunnerStatus status_;
  std::jthread thread_;
};

}  // namespace leat::runtime
