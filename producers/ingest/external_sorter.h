// Sorts more records than memory holds, by a number.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace leat::ingest {

// Sorted runs that one merge reads at a time: beyond it they are merged in rounds.
inline constexpr size_t kMergeRunsMax = 64;
inline constexpr size_t kRecordBytesMax = 1 << 20;

// Add every record, Finish once, then read the sorted records as often as wanted. Records of the
// same key keep the order in which they were added. Not thread-safe. Owns its scratch files and
// removes them.
class ExternalSorter {
 public:
  struct Options {
    uint64_t memory_bytes = 1ull << 30;     // of records held; beyond it a sorted run goes to disk
    std::string scratch_dir;                // must exist once something is spilled
    size_t merge_runs_max = kMergeRunsMax;  // at least 2
  };

  // Goes over the sorted records once. Must not outlive the sorter.
  class Cursor {
   public:
    virtual ~Cursor() = default;
    // The next record, false behind the last. `record` is valid until the next call.
    // Errors: kCorrupt and kUnavailable from the scratch files.
    virtual Result<bool> Next(uint64_t* key, std::string_view* record) = 0;
  };

  explicit ExternalSorter(Options options);
  ~ExternalSorter();
  ExternalSorter(const ExternalSorter&) = delete;
  ExternalSorter& operator=(const ExternalSorter&) = delete;

  // At most kRecordBytesMax. Errors: kExhausted (disk full), kInvalid (scratch folder).
  Status Add(uint64_t key, std::string_view record);
  // No Add after it.
  Status Finish();
  // Only after Finish. Several cursors may be open.
  std::unique_ptr<Cursor> Read() const;

  uint64_t count() const { return count_; }
  uint64_t spilled_bytes() const { return spilled_bytes_; }

 private:
  struct Run;
  // Positions grow in the order of Add, so that comparing (key, position) is a stable sort.
  struct Entry {
    uint64_t key;
    uint64_t position;  // chunk << 32 | offset of the length before the record
  };
  class MemoryCursor;
  class MergeCursor;

  std::string_view RecordAt(uint64_t position) const;
  void SortEntries();
  Status Spill();
  Status MergeLastRuns(size_t count);

  Options options_;
  std::vector<std::unique_ptr<char[]>> chunks_;
  size_t chunk_ = 0;  // being filled
  size_t chunk_used_ = 0;
  std::vector<Entry> entries_;
  uint64_t record_bytes_ = 0;
  std::vector<std::unique_ptr<Run>> runs_;  // in the order of Add
  uint64_t runs_made_ = 0;
  uint64_t count_ = 0;
  uint64_t spilled_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace leat::ingest
