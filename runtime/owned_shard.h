// A decider's shard and the partition of a topic that its log is published to: owned by this
// process, kept warm while another one owns it, or at rest. On the embedded transport the log may be
// the partition itself, mounted: then it is simply owned.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bus/bus.h"
#include "runtime/decider_runner.h"
#include "runtime/relay.h"
#include "runtime/shard.h"

namespace leat::runtime {

struct OwnedShardOptions {
  ShardOptions shard;
  std::string topic;
  uint32_t partition = 0;
  RunnerOptions input;  // of its decisions; without a topic they come from outside
  bool mounted = false;
};

// Own, Follow and Rest are for one thread at a time, and nobody writes the shard during them. The
// rest is thread-safe. Evolver and transport must outlive it.
class OwnedShard {
 public:
  static Result<std::unique_ptr<OwnedShard>> Open(const OwnedShardOptions& options,
                                                  Evolver* evolver, bus::Transport* transport);
  ~OwnedShard();

  // Claims the partition, brings the shard up to it, and relays the shard's log to it from then on.
  // A log that went another way while somebody else owned the partition is put aside, and built
  // anew from the topic: nothing of it was acknowledged. Errors: those of ClaimTopic; kUnavailable:
  // that log is being read.
  Status Own(const std::stop_token& stop);
  // Keeps the shard up to the partition without owning it.
  Status Follow();
  void Rest();

  // Its current shard; another one after it was put aside.
  std::shared_ptr<Shard> shard() const;
  // Waits until all of the log can be read from the topic, and lies before any other owner's claim;
  // false at the deadline, or while it is not owned.
  bool WaitPublished(uint64_t size, std::chrono::milliseconds timeout) const;
  // The same for what was appended in an epoch: false, too, when it is another one by now.
  bool WaitPublishedIn(uint64_t in_epoch, uint64_t size, std::chrono::milliseconds timeout) const;
  // Offset in the topic behind what is known to be there, and the epoch; 0 while it is not owned or mounted.
  uint64_t published_end() const;
  uint64_t epoch() const;
  // Of the log: in the topic, or taken from it.
  uint64_t published() const;
  // What stopped it. kConflict: another owner took over.
  Status error() const;

 private:
  OwnedShard(OwnedShardOptions options, Evolver* evolver, bus::Transport* transport)
      : options_(std::move(options)), evolver_(evolver), transport_(transport) {}
  Status OpenShard();
  // Moves its folder away once nobody else has it. Errors: kUnavailable when somebody keeps it.
  Status PutAside(const std::stop_token& stop);
  std::shared_ptr<Relay> relay() const;

  const OwnedShardOptions options_;
  Evolver* const evolver_;
  bus::Transport* const transport_;
  mutable std::mutex mutex_;
  std::shared_ptr<Shard> shard_;          // guarded by mutex_
  std::shared_ptr<Relay> relay_;          // guarded by mutex_; null while not owned, or mounted
  uint64_t epoch_ = 0;                    // guarded by mutex_
  std::shared_ptr<RunnerStatus> follower_status_;  // guarded by mutex_
  std::jthread follower_;
};

}  // namespace leat::runtime
