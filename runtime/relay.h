// The relay: publishes a shard's log to its partition of a topic, by number, in order. Only for logs that are not
// mounted.
#pragma once

#include <string>
#include <thread>

#include "bus/bus.h"
#include "eventstore/log.h"
#include "runtime/decider_runner.h"

namespace leat::runtime {

// Owns the thread. Log and transport must outlive it. Offset i of the partition is position i of the log: where it is
// comes from the topic itself, so nothing is published twice.
class Relay {
 public:
  Relay(const eventstore::Log* log, bus::Transport* transport, std::string topic,
        uint32_t partition);
  ~Relay();
  // Errors: kConflict when the topic is longer than the log: the shard must be rebuilt from the topic first.
  Status Start();
  const RunnerStatus& status() const { return status_; }

 private:
  Status Run(std::stop_token stop);
  // Where the topic ends is what is published. Errors: kConflict as for Start.
  Status FindEnd();
  // A batch from published_ on, if there is one.
  Status PublishNext(eventstore::LogCursor* cursor);

  const eventstore::Log* const log_;
  bus::Transport* const transport_;
  const std::string topic_;
  const uint32_t partition_;
  uint64_t published_ = 0;
  RunnerStatus status_;
  std::jthread thread_;
};

}  // namespace leat::runtime
