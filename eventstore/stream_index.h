// Which positions a stream's events have. Built behind the log: the newest events in memory, the rest in sorted runs
// that are ingested as whole files. A part of Log; services use Log.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/result.h"
#include "eventstore/database.h"

namespace leat::eventstore {

struct StreamInfo {
  std::string name;
  uint64_t version = 0;  // how many events it has
};

// One writer thread calls Add and Publish; everything else is thread-safe.
class StreamIndex {
 public:
  // `database` must outlive it. `run_events`: how many events a sorted run holds.
  StreamIndex(Database* database, uint64_t run_events);
  ~StreamIndex();

  // The position below which every event is in the database; the log's tail from there is added again by the caller.
  Result<uint64_t> IndexedTo() const;

  // Writer: the number of events in the stream, those added but not published among them.
  Result<uint64_t> Version(std::string_view stream);
  // Writer: the stream's next event lies at `position`.
  void Add(std::string_view stream, uint64_t version, uint64_t position);
  // Writer: what was added becomes visible.
  void Publish();
  // Writer: what was added and not published is forgotten.
  void Abandon();
  // Writer, after Publish: hands a full run to the indexer, and waits for it when it is far behind. A run that cannot be
  // written is tried again, with pauses of up to kRetryPauseMax; the writer does not wait for that: see CheckRoom.
  void Seal();
  // Errors: kExhausted while the indexer is far behind because a run cannot be written.
  Status CheckRoom() const;

  // Positions of up to `count_max` events with version >= from_version, ascending.
  Result<std::vector<uint64_t>> Forward(std::string_view stream, uint64_t from_version,
                                        size_t count_max) const;
  // Positions of up to `count_max` events with version < below_version, descending.
  Result<std::vector<uint64_t>> Backward(std::string_view stream, uint64_t below_version,
                                         size_t count_max) const;
  // Published number of events of a stream.
  Result<uint64_t> PublishedVersion(std::string_view stream) const;
  // Streams whose name is greater than `after` and starts with `prefix`, by name.
  Result<std::vector<StreamInfo>> List(std::string_view prefix, std::string_view after,
                                       size_t count_max) const;

 private:
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  template <typename T>
  using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;
  struct Tail {
    uint64_t first_version = 0;
    std::vector<uint64_t> positions;
  };
  // A run of events that are not in the database.
  struct Run {
    StringMap<Tail> streams;
    uint64_t end = 0;  // one past the last position
    uint64_t events = 0;
  };
  struct Added {
    std::string stream;
    uint64_t version;
    uint64_t position;
  };

  void IndexLoop(std::stop_token stop);
  Status WriteRun(const Run& run);
  Result<uint64_t> StoredVersion(std::string_view stream) const;

  Database* const database_;
  const uint64_t run_events_;

  StringMap<uint64_t> heads_;   // writer: newest versions, a cache
  std::vector<Added> added_;    // writer: not published

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::shared_ptr<Run> active_;        // guarded by mutex_
  std::shared_ptr<const Run> sealed_;  // guarded by mutex_; being written, or null
  Status failed_;                      // guarded by mutex_; of the newest try to write sealed_
  std::jthread indexer_;               // last: stops first
};

}  // namespace leat::eventstore
