#include "eventstore/database.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/write_buffer_manager.h>
#include <sys/statvfs.h>

#include <atomic>
#include <filesystem>
#include <vector>

namespace leat::eventstore {
namespace {

constexpr size_t kDefaultCacheBytes = 256u << 20;
constexpr size_t kDefaultWriteBufferBytes = 768u << 20;
// Opening after a crash reads so much again, at some 300 MB/s. More than what the largest memtable has: a smaller one would
// make files of half-full ones.
constexpr uint64_t kWalBytesMax = 128u << 20;
constexpr const char* kFamilyNames[kFamilies] = {"default", "log", "index", "rows", "keys"};

rocksdb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

std::unexpected<Error> ToError(const rocksdb::Status& status, const std::string& what) {
  const std::string message = what + ": " + status.ToString();
  if (status.IsNoSpace() || message.find("No space left") != std::string::npos) {
    return Fail(ErrorClass::kExhausted, message, "free some disk space and start again");
  }
  if (status.IsCorruption()) {
    return Fail(ErrorClass::kCorrupt, message, "restore from a backup, or rebuild from the topic");
  }
  const std::string reason = status.ToString();  // not `what`: a path may say "blocks"
  if (status.IsIOError() && (reason.find("While lock file") != std::string::npos ||
                             reason.find("lock hold by current process") != std::string::npos)) {
    return Fail(ErrorClass::kConflict, message, "stop the process that holds it");
  }
  if (status.IsInvalidArgument() && message.find("does not exist") != std::string::npos) {
    return Fail(ErrorClass::kNotFound, message);
  }
  return Fail(ErrorClass::kInternal, message);
}

// A sorted run that is being written lies beside the database's files under this name.
constexpr std::string_view kRunPrefix = "run-";
constexpr std::string_view kRunSuffix = ".tmp";

// What a killed process left. Such a file may be a second name of a live one: a run is hard-linked into the database
// before its own name goes, so writing into it would destroy the live file. Only for the holder of the database.
void RemoveLeftRuns(const std::string& path) {
  std::error_code ignored;
  std::vector<std::filesystem::path> left;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kRunPrefix) && name.ends_with(kRunSuffix)) left.push_back(entry.path());
  }
  for (const auto& run : left) std::filesystem::remove(run, ignored);
}

// The room on the disk of `path`, and all there can be when nobody knows: then the write itself will tell.
uint64_t FreeBytes(const std::string& path) {
  struct statvfs disk;
  if (statvfs(path.c_str(), &disk) != 0) return UINT64_MAX;
  return static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
}

class RocksResources final : public Resources {
 public:
  RocksResources(size_t cache_bytes, size_t write_buffer_bytes)
      : cache(rocksdb::NewLRUCache(cache_bytes)),
        write_buffers(std::make_shared<rocksdb::WriteBufferManager>(write_buffer_bytes)) {}

  const std::shared_ptr<rocksdb::Cache> cache;
  const std::shared_ptr<rocksdb::WriteBufferManager> write_buffers;
};

class RocksSnapshot final : public Snapshot {
 public:
  explicit RocksSnapshot(rocksdb::DB* db) : db_(db), snapshot_(db->GetSnapshot()) {}
  ~RocksSnapshot() override { db_->ReleaseSnapshot(snapshot_); }
  const rocksdb::Snapshot* get() const { return snapshot_; }

 private:
  rocksdb::DB* db_;
  const rocksdb::Snapshot* snapshot_;
};

const rocksdb::Snapshot* Unwrap(const Snapshot* snapshot) {
  return snapshot == nullptr ? nullptr : static_cast<const RocksSnapshot*>(snapshot)->get();
}

class RocksIterator final : public Iterator {
 public:
  RocksIterator(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family,
                const Database::IterateOptions& options)
      : upper_bound_(options.upper_bound), upper_slice_(upper_bound_) {
    rocksdb::ReadOptions read;
    read.snapshot = Unwrap(options.snapshot);
    if (!upper_bound_.empty()) read.iterate_upper_bound = &upper_slice_;
    if (options.scan) {
      constexpr size_t kReadaheadBytes = 2u << 20;
      read.readahead_size = kReadaheadBytes;
      read.fill_cache = false;
    }
    iterator_.reset(db->NewIterator(read, family));
  }
  void Seek(std::string_view key) override { iterator_->Seek(ToSlice(key)); }
  void SeekForPrev(std::string_view key) override { iterator_->SeekForPrev(ToSlice(key)); }
  void SeekToFirst() override { iterator_->SeekToFirst(); }
  void SeekToLast() override { iterator_->SeekToLast(); }
  void Next() override { iterator_->Next(); }
  void Prev() override { iterator_->Prev(); }
  bool Valid() const override { return iterator_->Valid(); }
  std::string_view key() const override { return ToView(iterator_->key()); }
  std::string_view value() const override { return ToView(iterator_->value()); }
  Status status() const override {
    const auto status = iterator_->status();
    if (!status.ok()) return ToError(status, "reading");
    return {};
  }

 private:
  const std::string upper_bound_;
  const rocksdb::Slice upper_slice_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
};

rocksdb::ColumnFamilyOptions FamilyOptions(Family family, const RocksResources& resources) {
  rocksdb::ColumnFamilyOptions options;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = resources.cache;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.format_version = 5;
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  options.compression = rocksdb::kLZ4Compression;
  switch (family) {
    case Family::kLog:
      // Keys only ever grow, so level compaction moves whole files and rewrites nothing.
      options.write_buffer_size = 32u << 20;
      table.block_size = 64u << 10;
      break;
    case Family::kRows:
      // Rows of accounts come in no order: large runs are sorted in memory before they are merged on disk.
      options.write_buffer_size = 64u << 20;
      options.max_write_buffer_number = 4;
      options.compaction_style = rocksdb::kCompactionStyleUniversal;
      table.block_size = 8u << 10;
      table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
      break;
    default:
      options.write_buffer_size = 8u << 20;
      break;
  }
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

}  // namespace

class RocksDatabase final : public Database {
 public:
  RocksDatabase(const DatabaseOptions& options, std::shared_ptr<RocksResources> resources)
      : path_(options.path), free_bytes_(options.free_bytes), resources_(std::move(resources)) {}

  ~RocksDatabase() override {
    if (db_ == nullptr) return;
    for (auto* handle : handles_) db_->DestroyColumnFamilyHandle(handle);
    db_->Close();
  }

  Status Open(bool create, bool strict_recovery) {
    rocksdb::DBOptions options;
    options.create_if_missing = create;
    options.create_missing_column_families = true;
    options.max_background_jobs = 2;
    options.write_buffer_manager = resources_->write_buffers;
    options.max_total_wal_size = kWalBytesMax;
    options.wal_recovery_mode = strict_recovery
                                    ? rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords
                                    : rocksdb::WALRecoveryMode::kPointInTimeRecovery;
    options.keep_log_file_num = 2;
    options.bytes_per_sync = 1u << 20;
    options.enable_pipelined_write = false;
    options.stats_dump_period_sec = 0;
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (size_t i = 0; i < kFamilies; ++i) {
      families.emplace_back(kFamilyNames[i],
                            FamilyOptions(static_cast<Family>(i), *resources_));
    }
    rocksdb::DB* db = nullptr;
    if (const auto status = rocksdb::DB::Open(options, path_, families, &handles_, &db);
        !status.ok()) {
      return ToError(status, "opening " + path_);
    }
    db_.reset(db);
    RemoveLeftRuns(path_);
    return {};
  }

  Status CheckRoom() const override { return CheckRoom(kDiskReserveBytes); }
  // Errors: kExhausted when the disk has less room than that.
  Status CheckRoom(uint64_t bytes) const {
    const uint64_t room = free_bytes_ ? free_bytes_() : FreeBytes(path_);
    if (room >= bytes) return {};
    return Fail(ErrorClass::kExhausted,
                "the disk of " + path_ + " is full: " + std::to_string(room >> 20) +
                    " MiB left, and " + std::to_string(bytes >> 20) + " MiB are wanted",
                "free some disk space and try again");
  }
  Status Write(Batch& batch, bool sync) override;

  Result<bool> Get(Family family, std::string_view key, std::string* value,
                   const Snapshot* snapshot) const override {
    rocksdb::ReadOptions read;
    read.snapshot = Unwrap(snapshot);
    thread_local rocksdb::PinnableSlice slice;
    slice.Reset();
    const auto status = db_->Get(read, Handle(family), ToSlice(key), &slice);
    if (status.IsNotFound()) return false;
    if (!status.ok()) return ToError(status, "reading " + path_);
    value->assign(slice.data(), slice.size());
    slice.Reset();
    return true;
  }

  std::unique_ptr<Snapshot> TakeSnapshot() const override {
    return std::make_unique<RocksSnapshot>(db_.get());
  }

  std::unique_ptr<Iterator> NewIterator(Family family,
                                        const IterateOptions& options) const override {
    return std::make_unique<RocksIterator>(db_.get(), Handle(family), options);
  }

  Result<std::unique_ptr<SortedRun>> NewSortedRun(Family family) override;

  Status VerifyChecksums() const override {
    if (const auto status = db_->VerifyChecksum(); !status.ok()) {
      return ToError(status, "checking " + path_);
    }
    return {};
  }

  Status Flush() override {
    rocksdb::FlushOptions options;
    if (const auto status = db_->Flush(options, handles_); !status.ok()) {
      return ToError(status, "flushing " + path_);
    }
    return {};
  }

  rocksdb::ColumnFamilyHandle* Handle(Family family) const {
    return handles_[static_cast<size_t>(family)];
  }
  rocksdb::DB* db() const { return db_.get(); }
  const std::string& path() const { return path_; }
  uint64_t NextRun() { return next_run_++; }

 private:
  const std::string path_;
  const std::function<uint64_t()> free_bytes_;
  const std::shared_ptr<RocksResources> resources_;
  std::atomic<uint64_t> next_run_{0};
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
};

namespace {

class RocksSortedRun final : public Database::SortedRun {
 public:
  RocksSortedRun(RocksDatabase* database, Family family)
      : database_(database),
        family_(family),
        writer_(rocksdb::EnvOptions(), database->db()->GetOptions(database->Handle(family)),
                database->Handle(family)) {
    path_ = database->path() + "/" + std::string(kRunPrefix) +
            std::to_string(database->NextRun()) + std::string(kRunSuffix);
  }
  ~RocksSortedRun() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  Status Open() {
    // Opening truncates, and the name may still be one of a live file.
    std::error_code error;
    std::filesystem::remove(path_, error);
    if (error) return Fail(ErrorClass::kInternal, "removing " + path_ + ": " + error.message());
    if (const auto status = writer_.Open(path_); !status.ok()) return ToError(status, path_);
    return {};
  }
  Status Add(std::string_view key, std::string_view value) override {
    if (const auto status = writer_.Put(ToSlice(key), ToSlice(value)); !status.ok()) {
      return ToError(status, path_);
    }
    return {};
  }
  Status Ingest() override {
    if (const auto status = writer_.Finish(); !status.ok()) return ToError(status, path_);
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    const auto status =
        database_->db()->IngestExternalFile(database_->Handle(family_), {path_}, options);
    if (!status.ok()) return ToError(status, path_);
    return {};
  }

 private:
  RocksDatabase* database_;
  Family family_;
  rocksdb::SstFileWriter writer_;
  std::string path_;
};

}  // namespace

Result<std::unique_ptr<Database::SortedRun>> RocksDatabase::NewSortedRun(Family family) {
  auto run = std::make_unique<RocksSortedRun>(this, family);
  LEAT_TRY(run->Open());
  return run;
}

struct Batch::Impl {
  explicit Impl(const RocksDatabase& target) : database(target) {}
  const RocksDatabase& database;
  rocksdb::WriteBatch batch;
};

Batch::Batch(const Database& database)
    : impl_(std::make_unique<Impl>(static_cast<const RocksDatabase&>(database))) {}
Batch::~Batch() = default;
Batch::Batch(Batch&&) noexcept = default;
Batch& Batch::operator=(Batch&&) noexcept = default;

void Batch::Put(Family family, std::string_view key, std::string_view value) {
  impl_->batch.Put(impl_->database.Handle(family), ToSlice(key), ToSlice(value));
}
void Batch::Delete(Family family, std::string_view key) {
  impl_->batch.Delete(impl_->database.Handle(family), ToSlice(key));
}
void Batch::DeleteRange(Family family, std::string_view begin, std::string_view end) {
  impl_->batch.DeleteRange(impl_->database.Handle(family), ToSlice(begin), ToSlice(end));
}
void Batch::Clear() { impl_->batch.Clear(); }
size_t Batch::SizeBytes() const { return impl_->batch.GetDataSize(); }
bool Batch::Empty() const { return impl_->batch.Count() == 0; }

Status RocksDatabase::Write(Batch& batch, bool sync) {
  rocksdb::WriteOptions options;
  options.sync = sync;
  options.memtable_insert_hint_per_batch = true;  // batches come sorted
  const auto status = db_->Write(options, &batch.impl_->batch);
  if (!status.ok()) return ToError(status, "writing " + path_);
  return {};
}

std::shared_ptr<Resources> Resources::Make(size_t cache_bytes, size_t write_buffer_bytes) {
  return std::make_shared<RocksResources>(cache_bytes, write_buffer_bytes);
}

Result<std::unique_ptr<Database>> Database::Open(const DatabaseOptions& options) {
  static const auto defaults =
      std::make_shared<RocksResources>(kDefaultCacheBytes, kDefaultWriteBufferBytes);
  std::error_code error;
  if (options.create) std::filesystem::create_directories(options.path, error);
  if (error) {
    return Fail(error == std::errc::no_space_on_device ? ErrorClass::kExhausted
                                                       : ErrorClass::kInvalid,
                "creating " + options.path + ": " + error.message(),
                "name a folder that can be written");
  }
  auto database = std::make_unique<RocksDatabase>(
      options, options.resources ? std::static_pointer_cast<RocksResources>(options.resources)
                                 : defaults);
  LEAT_TRY(database->CheckRoom(kDiskToOpenBytes));
  LEAT_TRY(database->Open(options.create, options.strict_recovery));
  return database;
}

std::string PrefixEnd(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<uint8_t>(end.back()) == 0xff) end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(end.back() + 1);
  return end;
}

}  // namespace leat::eventstore
