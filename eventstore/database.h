// One RocksDB database: what a shard or the embedded bus stands on. The only header of this folder that speaks of keys
// and values; no other folder includes RocksDB.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::eventstore {

// Column families. Every database has all of them.
enum class Family : uint8_t {
  kMeta,   // identity, input positions, checkpoints: few small rows
  kLog,    // commit records: docs/log-format.md
  kIndex,  // stream index, in ingested sorted runs
  kRows,   // the service's state
  kKeys,   // idempotency keys
};
inline constexpr size_t kFamilies = 5;

class Database;

// Writes to one database that are applied together or not at all. Movable; not thread-safe; must not outlive it.
class Batch {
 public:
  explicit Batch(const Database& database);
  ~Batch();
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;

  void Put(Family family, std::string_view key, std::string_view value);
  void Delete(Family family, std::string_view key);
  // Of [begin, end).
  void DeleteRange(Family family, std::string_view begin, std::string_view end);
  void Clear();
  size_t SizeBytes() const;
  bool Empty() const;

 private:
  friend class RocksDatabase;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A frozen view of a whole database; released when destroyed, which must be before the database is.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
};

// Walks the keys of a family in byte order. Not thread-safe. Views are valid until the next move.
class Iterator {
 public:
  virtual ~Iterator() = default;
  virtual void Seek(std::string_view key) = 0;          // first key not less
  virtual void SeekForPrev(std::string_view key) = 0;   // last key not greater
  virtual void SeekToFirst() = 0;
  virtual void SeekToLast() = 0;
  virtual void Next() = 0;
  virtual void Prev() = 0;
  virtual bool Valid() const = 0;
  virtual std::string_view key() const = 0;
  virtual std::string_view value() const = 0;
  // Whether it stopped for an error and not at an end. Errors: kCorrupt, kExhausted, kInternal.
  virtual Status status() const = 0;
};

// Memory shared by all databases of a process: one block cache and one budget for unflushed writes.
class Resources {
 public:
  static std::shared_ptr<Resources> Make(size_t cache_bytes, size_t write_buffer_bytes);
  virtual ~Resources() = default;
};

// What stays free for what is in memory and has yet to be written to files and compacted; and what opening wants.
inline constexpr uint64_t kDiskReserveBytes = 64u << 20;
inline constexpr uint64_t kDiskToOpenBytes = 16u << 20;

struct DatabaseOptions {
  std::string path;
  bool create = true;
  // What to do with a damaged record in the middle of the write-ahead log: true refuses to open, so that nothing that was
  // acknowledged is lost in silence; false goes back to the state before it, which a projection can do.
  bool strict_recovery = true;
  std::function<uint64_t()> free_bytes;  // how much room the disk has, from any thread; empty: as the system tells
  std::shared_ptr<Resources> resources;  // null: the process-wide default of 256 MiB and 768 MiB
};

// Thread-safe. One process at a time holds a database.
class Database {
 public:
  // Errors: kConflict (held by another process), kNotFound, kCorrupt, kExhausted, kInternal.
  static Result<std::unique_ptr<Database>> Open(const DatabaseOptions& options);
  virtual ~Database() = default;

  // What whoever is going to write asks first, before anything is half done: RocksDB's background work may not meet a full
  // disk. Errors: kExhausted while the disk has less than kDiskReserveBytes left; may be asked again.
  virtual Status CheckRoom() const = 0;
  // Applies the batch. Synced: it is on the disk when this returns. After an error nobody knows whether it was applied.
  // Errors: kExhausted, kInternal.
  virtual Status Write(Batch& batch, bool sync) = 0;
  // False when there is no such key. `snapshot` null: the newest state.
  virtual Result<bool> Get(Family family, std::string_view key, std::string* value,
                           const Snapshot* snapshot = nullptr) const = 0;
  virtual std::unique_ptr<Snapshot> TakeSnapshot() const = 0;
  struct IterateOptions {
    const Snapshot* snapshot = nullptr;
    std::string upper_bound;   // exclusive; empty: none
    bool scan = false;         // a long walk: read ahead, and leave the cache alone
  };
  virtual std::unique_ptr<Iterator> NewIterator(Family family,
                                                const IterateOptions& options) const = 0;
  std::unique_ptr<Iterator> NewIterator(Family family) const { return NewIterator(family, {}); }

  // Adds a sorted run of keys to a family in one step, without the write-ahead log.
  class SortedRun {
   public:
    virtual ~SortedRun() = default;
    virtual Status Add(std::string_view key, std::string_view value) = 0;  // strictly ascending
    virtual Status Ingest() = 0;
  };
  virtual Result<std::unique_ptr<SortedRun>> NewSortedRun(Family family) = 0;

  // Reads every file and checks its blocks. Errors: kCorrupt.
  virtual Status VerifyChecksums() const = 0;
  // Writes all that is in memory to files.
  virtual Status Flush() = 0;
};

// The least key above every key that starts with `prefix`; empty when there is none.
std::string PrefixEnd(std::string_view prefix);

}  // namespace leat::eventstore
