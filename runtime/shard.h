// A shard: one partition of one service, in one database with one writer thread, beside which a relay keeps its position. One
// commit is one write batch: rows, the input position they reflect, and the events that originated here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "core/result.h"
#include "eventstore/database.h"
#include "eventstore/log.h"
#include "runtime/state.h"
#include "runtime/window.h"

namespace leat::runtime {

// How far a shard has applied one partition of its input.
struct InputPosition {
  uint64_t next = 0;           // offset of the first event not applied
  uint32_t incarnation = 0;    // of the input's log; 0: none applied
  uint64_t epoch = 0;          // of the partition's newest owner; 0: nobody has claimed it (inbox.h)
  uint64_t next_position = 0;  // in the log of the partition's owners
  bool continues = false;      // the event applied last is to be decided together with the next one (Decider::Continues)
};

struct ShardOptions {
  std::string path;
  std::string name;      // "<service>-<partition>", the source of its events
  bool has_log = false;  // deciders have one, projections do not
  std::shared_ptr<eventstore::Resources> resources;
  std::function<uint64_t()> free_bytes;  // of the disk: see eventstore::DatabaseOptions
};

// The writer's calls belong to one thread; database() and log() may be read from any, and KeepInput and error() be called.
class Shard {
 public:
  static Result<std::unique_ptr<Shard>> Open(const ShardOptions& options);

  State& state() { return *state_; }
  // Null without a log.
  eventstore::Log* log() { return log_.get(); }
  const eventstore::Log* log() const { return log_.get(); }
  eventstore::Database& database() const { return *database_; }
  const std::string& name() const { return options_.name; }
  const std::string& path() const { return options_.path; }

  Result<InputPosition> Input(std::string_view topic, uint32_t partition) const;
  // Of the foreign events before that position. Errors: kCorrupt.
  Status ReadWindow(std::string_view topic, uint32_t partition, Window* window) const;
  // Both, as they were committed last; the position's incarnation stays as it is.
  Status ReadInput(std::string_view topic, uint32_t partition, InputPosition* position,
                   Window* window) const;
  // Becomes part of the commit being made, with what the window has gained since the last time. When a commit fails, the
  // window has to be read anew.
  void SetInput(std::string_view topic, uint32_t partition, const InputPosition& position,
                Window* window = nullptr);
  // Writes it by itself, at once and not synced, from any thread: for a partition of which the writer sets nothing
  // meanwhile. A position of 0 forgets the window, too. Errors: those of a database.
  Status KeepInput(std::string_view topic, uint32_t partition, const InputPosition& position) const;
  // The same as SetInput, as if nothing of it had been read.
  void ForgetInput(std::string_view topic, uint32_t partition);
  // How much the commit being made holds, about: rows and events.
  size_t StagedBytes() const {
    return state_->StagedBytes() + (log_ == nullptr ? 0 : log_->StagedBytes());
  }
  bool HasStaged() const { return staged_; }
  void MarkStaged() { staged_ = true; }

  // Writes everything staged as one batch and publishes the log. `sync` must be true when events originated: they may not
  // be seen by anybody before they are on the disk. While there is no room (kExhausted) nothing is written, and what is
  // staged is forgotten: it may be staged again. Any other error is error() from then on.
  Status Commit(bool sync);
  // Forgets what is staged: rows, input positions and events. Errors: error().
  Status Abandon();
  // What stopped the shard: after a failed write nothing else is tried, until it is opened anew. From any thread.
  Status error() const {
    std::lock_guard lock(failed_mutex_);
    return failed_;
  }
  // Deletes every row: what a rebuild starts from. Without a log the input positions go, too; with one, both stay, and it is
  // Rebuilding() from then on, also when it is opened anew, until the commit that follows EndRebuild(); of its inputs it
  // keeps the incarnations, which its log cannot tell.
  Status ClearRows();
  // Whether its rows reflect only a part of its log.
  Result<bool> Rebuilding() const;
  // Becomes part of the commit being made.
  void EndRebuild();

 private:
  explicit Shard(ShardOptions options) : options_(std::move(options)) {}

  const ShardOptions options_;
  std::unique_ptr<eventstore::Database> database_;
  std::unique_ptr<eventstore::Log> log_;
  std::unique_ptr<State> state_;
  bool staged_ = false;
  mutable std::mutex failed_mutex_;
  Status failed_;  // the writer's; guarded by failed_mutex_ where it is set, and for others
};

}  // namespace leat::runtime
