// Runs a decider on one partition of its input topic: polls, decides, commits, and remembers where it is.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bus/bus.h"
#include "runtime/decider.h"
#include "runtime/shard.h"

namespace leat::runtime {

// What a runner of either kind tells of itself. Thread-safe.
class RunnerStatus {
 public:
  // Offset of the first input not applied.
  uint64_t applied() const { return applied_.load(std::memory_order_acquire); }
  // Waits until applied() >= next; false at the deadline, or when the runner stopped.
  bool WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const;
  // The error that stopped the runner, if one did.
  Status error() const;

  // At the start, also at one after Stop.
  void Begin(uint64_t applied);
  void Advance(uint64_t applied);
  void Stop(Status error);

 private:
  std::atomic<uint64_t> applied_{0};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool stopped_ = false;  // guarded by mutex_
  Status error_;          // guarded by mutex_
};

struct RunnerOptions {
  std::string topic;
  uint32_t partition = 0;
  // A commit is made when it holds this much, or when there is no more input.
  size_t commit_bytes = 2u << 20;
  // The runner ends, without an error, when it has applied everything below this offset.
  uint64_t stop_at = UINT64_MAX;
};

// Owns the thread. The shard, the decider and the subscriber must outlive it.
class DeciderRunner {
 public:
  DeciderRunner(Shard* shard, Decider* decider, bus::Transport* input, RunnerOptions options);
  // Stops after the batch at hand. What waits for the input that it continues in is decided again at the next start; so
  // it is at RunnerOptions::stop_at.
  ~DeciderRunner();
  // What was staged and not committed is forgotten. Errors: kConflict when the input's log is not the one that was
  // applied before.
  Status Start();
  // As the destructor; whoever waits on the status is woken. Not from two threads at once.
  void Stop();
  const RunnerStatus& status() const { return status_; }

 private:
  Status Run(std::stop_token stop);

  Shard* const shard_;
  Decider* const decider_;
  bus::Transport* const input_;
  const RunnerOptions options_;
  InputPosition position_;
  Window window_;
  RunnerStatus status_;
  std::jthread thread_;
};

// Rebuilds the rows of a decider's shard by evolving its log from the beginning. `progress` is called with events done. Errors: kConflict when `input_incarnation` is not the one of the
// log that was applied before: nothing is cleared then.
Status RebuildFromLog(Shard* shard, Evolver* evolver, const RunnerOptions& input,
                      uint32_t input_incarnation, const std::function<void(uint64_t)>& progress);

}  // namespace leat::runtime
