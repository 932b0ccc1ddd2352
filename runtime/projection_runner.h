// Runs a projection on one partition of its input topic, and gives queries a view of every commit.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bus/bus.h"
#include "runtime/decider.h"
#include "runtime/decider_runner.h"
#include "runtime/shard.h"

namespace leat::runtime {

// The rows as of one commit. Immutable; keeps the snapshot, so hold it for a query and not for ever.
struct View {
  const eventstore::Database* database = nullptr;
  std::unique_ptr<eventstore::Snapshot> snapshot;
  InputPosition input;  // what the rows reflect
  std::shared_ptr<const void> summary;

  Result<bool> Get(std::string_view key, std::string* value) const {
    return database->Get(eventstore::Family::kRows, key, value, snapshot.get());
  }
  std::unique_ptr<eventstore::Iterator> Iterate(std::string upper_bound = {},
                                                bool scan = false) const {
    eventstore::Database::IterateOptions options;
    options.snapshot = snapshot.get();
    options.upper_bound = std::move(upper_bound);
    options.scan = scan;
    return database->NewIterator(eventstore::Family::kRows, options);
  }
};

// Owns the thread. The shard, the projection and the subscriber must outlive it, and it its views.
class ProjectionRunner {
 public:
  ProjectionRunner(Shard* shard, Projection* projection, bus::Transport* input,
                   RunnerOptions options);
  ~ProjectionRunner();
  // When the input's log is not the one that was applied before, the rows are cleared and built anew.
  Status Start();
  // Ends the thread after the batch at hand; views stay good. Not from two threads at once.
  void Stop();
  const RunnerStatus& status() const { return status_; }
  const RunnerOptions& options() const { return options_; }

  // The newest commit. Thread-safe, and cheap: `generation()` changes with every commit, so a reader may keep a view
  // until it does.
  std::shared_ptr<const View> view() const;
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  Status Run(std::stop_token stop);
  Status Commit();
  void PublishView();

  Shard* const shard_;
  Projection* const projection_;
  bus::Transport* const input_;
  const RunnerOptions options_;
  InputPosition position_;
  Window window_;
  RunnerStatus status_;
  mutable std::mutex mutex_;
  std::shared_ptr<const View> view_;  // guarded by mutex_
  std::atomic<uint64_t> generation_{0};
  std::jthread thread_;
};

}  // namespace leat::runtime
