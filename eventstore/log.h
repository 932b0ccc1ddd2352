// The log engine: a gapless sequence of events in packed, checksummed, Merkle-hashed commit records, with streams.
// docs/log-format.md specifies the bytes.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/result.h"
#include "eventstore/database.h"
#include "eventstore/merkle.h"
#include "eventstore/stream_index.h"
#include "events/event.h"

namespace leat::eventstore {

// A record of more than this is split; the parts are linked and written in one batch.
inline constexpr size_t kRecordBytesMax = 256u << 10;
inline constexpr size_t kStreamBytesMax = 512;

// An event as it lies in the log. Views into the record that a cursor holds.
struct LogEvent {
  uint64_t position = 0;
  int64_t commit_time_us = 0;
  std::string_view stream;
  uint64_t version = 0;        // 1 for the stream's first
  std::string_view source;     // of the log, where the envelope has none
  std::string_view envelope;   // binary form, without what the entry says already
  bool purged = false;         // only the leaf hash is left, in `envelope`
  bool whole = false;          // the envelope is complete as it stands: see LogOptions::whole

  // The whole event: attributes that are known from the entry are filled in, unless `whole`.
  Result<events::EventView> Decode() const;
};

struct LogOptions {
  std::string source;  // the CloudEvents source of events that have none; empty in a log of foreign events
  // Events are stored and given back exactly as they came: an event without a subject stays without one, and nothing is
  // left out. For a log of events that are not about its own streams, such as the bus.
  bool whole = false;
  uint64_t index_run_events = 262'144;
  const core::Clock* clock = &core::SystemClock();
};

struct VerifyReport {
  uint64_t events = 0;
  uint64_t records = 0;
  uint64_t streams = 0;
  Hash root;
};

class LogCursor;

// One writer thread calls what says so; all else is thread-safe.
class Log {
 public:
  // `database` must outlive it. Creates the log's identity on first use. Errors: kCorrupt, kUnsupported (newer format).
  static Result<std::unique_ptr<Log>> Open(Database* database, LogOptions options);
  ~Log();

  // Writer: whether a commit may be made now. Errors, which pass: kExhausted (the disk is full, or the stream index is too
  // far behind because it cannot be written).
  Status CheckRoom() const;
  // Writer: appends an event to the commit being made, as the stream's next; its position. `event.subject` is left out
  // of the stored bytes when it is the stream's name. Errors: kInvalid (bad stream name), kCorrupt.
  Result<uint64_t> Add(std::string_view stream, const events::EventView& event);
  // Writer: puts the commit's records in `batch`. After the batch was written, Publish; if writing it failed, the log must
  // not be used any further.
  void Seal(Batch* batch);
  // Writer: drops the commit being made, as if nothing had been added. Not after a write of it was tried.
  void Abandon();
  // Writer: what was sealed becomes visible to readers.
  void Publish();
  // Writer: the number of events in a stream, those of the commit being made among them.
  Result<uint64_t> StreamVersion(std::string_view stream) { return index_->Version(stream); }
  // Writer: how many bytes the commit being made holds.
  size_t StagedBytes() const { return entries_.size() + cut_bytes_; }
  // Writer: the position of the next event.
  uint64_t NextPosition() const { return next_position_; }

  // Number of published events: one past the last position.
  uint64_t size() const { return size_.load(std::memory_order_acquire); }
  // Waits until size() > position; false at the deadline, or when Wake came meanwhile.
  bool WaitFor(uint64_t position, std::chrono::milliseconds timeout) const;
  // Makes every WaitFor that is under way return: for whoever stops a reader.
  void Wake() const;
  // LogOptions::source.
  const std::string& source() const { return options_.source; }
  // New whenever a log is created: positions of another life are not its.
  uint32_t incarnation() const { return incarnation_; }
  // The tree hash over all published entries.
  Hash Root() const;

  // Events from `position` on, in order.
  LogCursor Read(uint64_t position) const;
  // Positions of a stream's events from a version (1: the first) on, ascending.
  Result<std::vector<uint64_t>> StreamPositions(std::string_view stream, uint64_t from_version,
                                                size_t count_max) const {
    return Visible(index_->Forward(stream, from_version, count_max));
  }
  // The same backwards: versions below `below_version`, descending.
  Result<std::vector<uint64_t>> StreamPositionsBackward(std::string_view stream,
                                                        uint64_t below_version,
                                                        size_t count_max) const {
    return Visible(index_->Backward(stream, below_version, count_max));
  }
  Result<uint64_t> PublishedVersion(std::string_view stream) const {
    return Visible(index_->PublishedVersion(stream));
  }
  Result<std::vector<StreamInfo>> ListStreams(std::string_view prefix, std::string_view after,
                                              size_t count_max) const {
    return Visible(index_->List(prefix, after, count_max));
  }

  // Reads everything and checks checksums, positions, stream versions and every root. `noted`: a root noted outside at
  // that size must be met. Errors: kCorrupt, naming the place; also for a size beyond the log: its tail was cut.
  struct NotedRoot {
    uint64_t size = 0;
    Hash root;
  };
  Result<VerifyReport> Verify(const NotedRoot* noted,
                              const std::function<void(uint64_t)>& progress) const;

 private:
  friend class LogCursor;
  struct RecentRecord {
    uint64_t first;
    uint64_t count;
    std::shared_ptr<const std::string> bytes;
  };

  Log(Database* database, LogOptions options);
  Status Recover();
  void CutRecord(bool continues);
  std::shared_ptr<const std::string> RecentAt(uint64_t position) const;
  // What the index told may be of a commit that is being published: size() covers it when this returns.
  template <typename T>
  T Visible(T told) const {
    std::lock_guard lock(publishing_);
    return told;
  }

  Database* const database_;
  const LogOptions options_;
  uint32_t incarnation_ = 0;
  std::unique_ptr<StreamIndex> index_;

  // The commit being made: writer only.
  uint64_t next_position_ = 0;
  uint64_t record_first_ = 0;
  std::string entries_;
  std::string scratch_;
  std::string context_;
  std::vector<RecentRecord> cut_;
  size_t cut_bytes_ = 0;
  MerkleFrontier frontier_;
  MerkleFrontier published_frontier_;  // before the commit being made
  uint64_t checkpoint_size_ = 0;
  int64_t last_commit_time_us_ = 0;

  mutable std::mutex publishing_;  // held while the index and size_ grow together
  mutable std::mutex mutex_;
  mutable std::condition_variable grown_;
  mutable int waiters_ = 0;           // guarded by mutex_
  mutable uint64_t wakes_ = 0;        // guarded by mutex_
  std::deque<RecentRecord> recent_;   // guarded by mutex_
  size_t recent_bytes_ = 0;           // guarded by mutex_
  Hash published_root_;               // guarded by mutex_
  std::atomic<uint64_t> size_{0};
};

// Walks a log forwards, and backwards from where it was opened. Not thread-safe; must not outlive the log.
class LogCursor {
 public:
  LogCursor(const Log* log, uint64_t position) : log_(log), position_(position) {}

  // The event at position(), which moves on; false at the end of what is published, where it may be called again later.
  // Errors: kCorrupt.
  Result<bool> Next(LogEvent* event);
  // The event before position(), which moves back; false at the beginning.
  Result<bool> Previous(LogEvent* event);
  uint64_t position() const { return position_; }
  void Seek(uint64_t position) { position_ = position; }
  // What keeps the last event's views alive.
  std::shared_ptr<const std::string> pin() const { return record_; }

 private:
  struct Entry {
    uint32_t offset;
    uint32_t size;
  };
  Status Load(uint64_t position);

  const Log* log_;
  uint64_t position_;
  std::shared_ptr<const std::string> record_;
  uint64_t first_ = 0;   // of record_
  uint64_t count_ = 0;
  int64_t commit_time_us_ = 0;
  bool whole_ = false;
  std::string_view source_;
  std::vector<Entry> entries_;
  std::unique_ptr<Iterator> iterator_;
  bool scanning_ = false;  // iterator_ reads ahead
};

}  // namespace leat::eventstore
