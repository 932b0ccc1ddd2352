#include "eventstore/stream_index.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <set>

#include "core/bytes.h"
#include "core/log.h"

namespace leat::eventstore {
namespace {

constexpr std::string_view kIndexedToKey = "index/to";
constexpr size_t kHeadsMax = 1u << 20;
// The writer waits for the indexer when the active run is this many times its size.
constexpr uint64_t kActiveRunsMax = 8;
constexpr auto kRetryPauseMin = std::chrono::milliseconds(100);
constexpr auto kRetryPauseMax = std::chrono::milliseconds(10'000);

std::string IndexKey(std::string_view stream, uint64_t version) {
  std::string key(stream);
  key.push_back('\0');
  core::AppendBigEndian64(version, &key);
  return key;
}

// The stream of an index key; its version is the last eight bytes.
std::string_view StreamOf(std::string_view key) { return key.substr(0, key.size() - 9); }
uint64_t VersionOf(std::string_view key) {
  return core::LoadBigEndian64(key.data() + key.size() - 8);
}

}  // namespace

StreamIndex::StreamIndex(Database* database, uint64_t run_events)
    : database_(database),
      run_events_(run_events),
      active_(std::make_shared<Run>()),
      indexer_([this](std::stop_token stop) { IndexLoop(stop); }) {}

StreamIndex::~StreamIndex() {
  indexer_.request_stop();
  changed_.notify_all();
}

Result<uint64_t> StreamIndex::IndexedTo() const {
  std::string value;
  LEAT_ASSIGN(const bool found, database_->Get(Family::kMeta, kIndexedToKey, &value));
  return found && value.size() == 8 ? core::LoadBigEndian64(value.data()) : 0;
}

Result<uint64_t> StreamIndex::StoredVersion(std::string_view stream) const {
  const auto iterator = database_->NewIterator(Family::kIndex);
  iterator->SeekForPrev(IndexKey(stream, UINT64_MAX));
  LEAT_TRY(iterator->status());
  if (!iterator->Valid() || StreamOf(iterator->key()) != stream) return 0;
  return VersionOf(iterator->key());
}

Result<uint64_t> StreamIndex::PublishedVersion(std::string_view stream) const {
  {
    std::lock_guard lock(mutex_);
    for (const Run* run : {static_cast<const Run*>(active_.get()), sealed_.get()}) {
      if (run == nullptr) continue;
      if (const auto found = run->streams.find(stream); found != run->streams.end()) {
        return found->second.first_version + found->second.positions.size() - 1;
      }
    }
  }
  return StoredVersion(stream);
}

Result<uint64_t> StreamIndex::Version(std::string_view stream) {
  if (const auto found = heads_.find(stream); found != heads_.end()) return found->second;
  // Nothing unpublished can be missing from heads_: it is trimmed only right after Publish.
  LEAT_ASSIGN(const uint64_t version, PublishedVersion(stream));
  heads_.emplace(stream, version);
  return version;
}

void StreamIndex::Add(std::string_view stream, uint64_t version, uint64_t position) {
  const auto found = heads_.find(stream);
  if (found != heads_.end()) {
    found->second = version;
  } else {
    heads_.emplace(stream, version);
  }
  added_.push_back({std::string(stream), version, position});
}

void StreamIndex::Publish() {
  std::lock_guard lock(mutex_);
  for (Added& added : added_) {
    Tail& tail = active_->streams[std::move(added.stream)];
    if (tail.positions.empty()) tail.first_version = added.version;
    tail.positions.push_back(added.position);
    active_->end = added.position + 1;
    ++active_->events;
  }
  added_.clear();
  if (heads_.size() > kHeadsMax) heads_.clear();
}

void StreamIndex::Abandon() {
  for (const Added& added : added_) heads_.erase(added.stream);
  added_.clear();
}

void StreamIndex::Seal() {
  std::unique_lock lock(mutex_);
  if (active_->events < run_events_) return;
  if (active_->events >= run_events_ * kActiveRunsMax) {
    changed_.wait(lock, [this] { return sealed_ == nullptr || !failed_; });
  }
  if (sealed_ != nullptr) return;
  sealed_ = std::move(active_);
  active_ = std::make_shared<Run>();
  changed_.notify_all();
}

Status StreamIndex::CheckRoom() const {
  std::lock_guard lock(mutex_);
  if (failed_ || active_->events < run_events_ * kActiveRunsMax) return {};
  return Fail(ErrorClass::kExhausted,
              "the stream index is " + std::to_string(active_->events) +
                  " events behind: " + failed_.error().message,
              failed_.error().remedy);
}

void StreamIndex::IndexLoop(std::stop_token stop) {
  auto pause = kRetryPauseMin;
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return sealed_ != nullptr; })) {
    const std::shared_ptr<const Run> run = sealed_;
    lock.unlock();
    auto status = WriteRun(*run);
    if (!status) core::LogError("eventstore", "stream index: " + status.error().Text());
    lock.lock();
    failed_ = std::move(status);
    if (failed_) sealed_ = nullptr;
    changed_.notify_all();
    if (failed_) {
      pause = kRetryPauseMin;
      continue;
    }
    // The log holds everything the index does, and the run stays in memory: nothing is lost meanwhile.
    changed_.wait_for(lock, stop, pause, [] { return false; });
    if (stop.stop_requested()) return;
    pause = std::min(pause * 2, kRetryPauseMax);
  }
}

Status StreamIndex::WriteRun(const Run& run) {
  LEAT_TRY(database_->CheckRoom());
  std::vector<const decltype(run.streams)::value_type*> sorted;
  sorted.reserve(run.streams.size());
  for (const auto& entry : run.streams) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->first < b->first; });
  LEAT_ASSIGN(auto writer, database_->NewSortedRun(Family::kIndex));
  std::string value;
  for (const auto* entry : sorted) {
    const Tail& tail = entry->second;
    for (size_t i = 0; i < tail.positions.size(); ++i) {
      value.clear();
      core::AppendVarint(tail.positions[i], &value);
      LEAT_TRY(writer->Add(IndexKey(entry->first, tail.first_version + i), value));
    }
  }
  LEAT_TRY(writer->Ingest());
  // Not in one step with the file: after a crash between the two, the same run is ingested again, to the same keys.
  Batch batch(*database_);
  std::string to;
  core::AppendBigEndian64(run.end, &to);
  batch.Put(Family::kMeta, kIndexedToKey, to);
  return database_->Write(batch, false);
}

Result<std::vector<uint64_t>> StreamIndex::Forward(std::string_view stream, uint64_t from_version,
                                                   size_t count_max) const {
  from_version = std::max<uint64_t>(from_version, 1);
  // The memory first: a run leaves it only once it is in the database, so nothing falls between.
  std::vector<uint64_t> recent;
  uint64_t recent_from = UINT64_MAX;
  {
    std::lock_guard lock(mutex_);
    for (const Run* run : {sealed_.get(), static_cast<const Run*>(active_.get())}) {
      if (run == nullptr) continue;
      const auto found = run->streams.find(stream);
      if (found == run->streams.end()) continue;
      const Tail& tail = found->second;
      recent_from = std::min(recent_from, tail.first_version);
      const uint64_t skip = from_version > tail.first_version ? from_version - tail.first_version
                                                              : 0;
      for (uint64_t i = skip; i < tail.positions.size() && recent.size() < count_max; ++i) {
        recent.push_back(tail.positions[i]);
      }
    }
  }
  if (from_version >= recent_from) return recent;
  std::vector<uint64_t> out;
  Database::IterateOptions options;
  options.upper_bound = IndexKey(stream, std::min(recent_from, UINT64_MAX));
  const auto iterator = database_->NewIterator(Family::kIndex, options);
  for (iterator->Seek(IndexKey(stream, from_version)); iterator->Valid() && out.size() < count_max;
       iterator->Next()) {
    core::ByteReader value(iterator->value());
    uint64_t position;
    if (!value.TakeVarint(&position)) {
      return Fail(ErrorClass::kCorrupt, "the stream index holds a bad entry");
    }
    out.push_back(position);
  }
  LEAT_TRY(iterator->status());
  for (size_t i = 0; i < recent.size() && out.size() < count_max; ++i) out.push_back(recent[i]);
  return out;
}

Result<std::vector<uint64_t>> StreamIndex::Backward(std::string_view stream,
                                                    uint64_t below_version,
                                                    size_t count_max) const {
  LEAT_ASSIGN(const uint64_t version, PublishedVersion(stream));
  below_version = std::min(below_version, version + 1);
  const uint64_t count = std::min<uint64_t>(count_max, below_version > 0 ? below_version - 1 : 0);
  LEAT_ASSIGN(auto out, Forward(stream, below_version - count, count));
  std::reverse(out.begin(), out.end());
  return out;
}

Result<std::vector<StreamInfo>> StreamIndex::List(std::string_view prefix, std::string_view after,
                                                  size_t count_max) const {
  std::set<std::string> names;
  const auto wanted = [&](std::string_view name) {
    return name.starts_with(prefix) && (after.empty() || name > after);
  };
  {
    std::lock_guard lock(mutex_);
    for (const Run* run : {static_cast<const Run*>(active_.get()), sealed_.get()}) {
      if (run == nullptr) continue;
      for (const auto& [name, tail] : run->streams) {
        if (!wanted(name)) continue;
        names.insert(name);
        if (names.size() > count_max) names.erase(std::prev(names.end()));
      }
    }
  }
  const auto iterator = database_->NewIterator(Family::kIndex);
  size_t found = 0;
  iterator->Seek(after > prefix ? IndexKey(after, UINT64_MAX) : std::string(prefix));
  while (iterator->Valid() && found < count_max) {
    const std::string name(StreamOf(iterator->key()));
    if (!name.starts_with(prefix)) break;
    if (wanted(name)) {
      names.insert(name);
      ++found;
    }
    iterator->Seek(name + '\x01');
  }
  LEAT_TRY(iterator->status());
  std::vector<StreamInfo> out;
  for (const std::string& name : names) {
    if (out.size() == count_max) break;
    LEAT_ASSIGN(const uint64_t version, PublishedVersion(name));
    out.push_back({name, version});
  }
  return out;
}

}  // namespace leat::eventstore
