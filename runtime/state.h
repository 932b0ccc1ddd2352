// The rows of a shard as its service sees them: reads see the writes of the commit being made.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/result.h"
#include "eventstore/database.h"

namespace leat::runtime {

// Used by the shard's writer thread alone. Rows that are read and written again stay in a cache of a bounded size.
class State {
 public:
  // `database` must outlive it.
  explicit State(eventstore::Database* database) : database_(database), batch_(*database) {}

  // False when there is no such row. Errors: kCorrupt, kInternal.
  Result<bool> Get(std::string_view key, std::string* value) const;
  void Put(std::string_view key, std::string_view value);
  void Delete(std::string_view key);
  // For rows that are written once and that the service itself never reads: they pass the cache by. Get, Put and Delete of
  // such a key are programmer's mistakes: they would see, or leave behind, an older row.
  void PutUncached(std::string_view key, std::string_view value);
  // Rows of the last commit in key order: what the commit being made writes is not among them.
  std::unique_ptr<eventstore::Iterator> Iterate(
      const eventstore::Database::IterateOptions& options) const {
    return database_->NewIterator(eventstore::Family::kRows, options);
  }

 private:
  friend class Shard;
  struct Row {
    std::string value;
    bool exists = false;
    bool dirty = false;
  };
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  using Rows = std::unordered_map<std::string, Row, StringHash, std::equal_to<>>;

  // The row in the young generation, brought over from the old one or made empty; `found` tells whether it was known.
  Rows::value_type& Touch(std::string_view key, bool* found) const;
  void MarkDirty(Rows::value_type* row);
  // Moves what is dirty and what is uncached into the batch, in key order: RocksDB's memtable takes sorted keys at half the
  // cost, since it finds each place from the one before (`bench/`: the projection's commits were 42 % of all CPU time, most
  // of it in the skip list's search).
  void Collect();
  void Committed();
  // Forgets everything that was not committed.
  void Reset();
  size_t StagedBytes() const { return batch_.SizeBytes() + dirty_bytes_ + uncached_.size(); }

  eventstore::Database* database_;
  // Two generations: a row that is used moves to the young one; when that is full it becomes the old one, and what was
  // not used meanwhile is forgotten. So hot rows stay, at the cost of a second look-up on a miss.
  mutable Rows young_;
  mutable Rows old_;
  std::vector<Rows::value_type*> dirty_;  // rows of young_, which does not move them
  size_t dirty_bytes_ = 0;
  struct Place {
    size_t offset;  // of the key in uncached_, the value behind it
    uint32_t key_size;
    uint32_t value_size;
  };
  std::string uncached_;
  std::vector<Place> places_;
  eventstore::Batch batch_;
};

}  // namespace leat::runtime
