#include "runtime/shard.h"

#include <algorithm>

#include "core/bytes.h"

namespace leat::runtime {
namespace {

using eventstore::Batch;
using eventstore::Database;
using eventstore::Family;

constexpr std::string_view kInputPrefix = "input/";
// In Family::kKeys: how many events there ever were, and behind a '/' the entries by their numbers modulo kWindowEvents.
constexpr std::string_view kWindowPrefix = "window/";
constexpr std::string_view kRebuildingKey = "rebuilding";

std::string InputKey(std::string_view topic, uint32_t partition) {
  return std::string(kInputPrefix) + std::string(topic) + "/" + std::to_string(partition);
}

std::string WindowKey(std::string_view topic, uint32_t partition) {
  return std::string(kWindowPrefix) + std::string(topic) + "/" + std::to_string(partition);
}

std::string Pack(const InputPosition& position) {
  std::string value;
  core::AppendVarint(position.next, &value);
  core::AppendVarint(position.incarnation, &value);
  core::AppendVarint(position.epoch, &value);
  core::AppendVarint(position.next_position, &value);
  if (position.continues) value.push_back('\1');
  return value;
}

bool Unpack(std::string_view value, InputPosition* position) {
  core::ByteReader reader(value);
  uint64_t incarnation;
  if (!reader.TakeVarint(&position->next) || !reader.TakeVarint(&incarnation) ||
      !reader.TakeVarint(&position->epoch) || !reader.TakeVarint(&position->next_position)) {
    return false;
  }
  position->incarnation = static_cast<uint32_t>(incarnation);
  position->continues = !reader.Empty();
  return true;
}

}  // namespace

Result<std::unique_ptr<Shard>> Shard::Open(const ShardOptions& options) {
  std::unique_ptr<Shard> shard(new Shard(options));
  eventstore::DatabaseOptions database;
  database.path = options.path;
  database.strict_recovery = options.has_log;
  database.resources = options.resources;
  database.free_bytes = options.free_bytes;
  LEAT_ASSIGN(shard->database_, Database::Open(database));
  shard->state_ = std::make_unique<State>(shard->database_.get());
  if (options.has_log) {
    eventstore::LogOptions log;
    log.source = "leat/" + options.name;
    LEAT_ASSIGN(shard->log_, eventstore::Log::Open(shard->database_.get(), log));
  }
  return shard;
}

Result<InputPosition> Shard::Input(std::string_view topic, uint32_t partition) const {
  std::string value;
  LEAT_ASSIGN(const bool found, database_->Get(Family::kMeta, InputKey(topic, partition), &value));
  InputPosition position;
  if (found && !Unpack(value, &position)) {
    return Fail(ErrorClass::kCorrupt, name() + ": the input position cannot be read");
  }
  return position;
}

Status Shard::ReadWindow(std::string_view topic, uint32_t partition, Window* window) const {
  *window = {};
  std::string value;
  const std::string key = WindowKey(topic, partition);
  LEAT_ASSIGN(const bool found, database_->Get(Family::kKeys, key, &value));
  if (!found) return {};
  const auto damaged = [&] {
    return Fail(ErrorClass::kCorrupt, name() + ": the window of " + std::string(topic) + " cannot be read");
  };
  core::ByteReader reader(value);
  if (!reader.TakeVarint(&window->count_)) return damaged();
  window->staged_ = window->count_;
  window->ring_.resize(std::min<uint64_t>(window->count_, kWindowEvents));
  const std::string prefix = key + "/";
  Database::IterateOptions options;
  options.upper_bound = eventstore::PrefixEnd(prefix);
  const auto rows = database_->NewIterator(Family::kKeys, options);
  for (rows->Seek(prefix); rows->Valid(); rows->Next()) {
    const std::string_view place = rows->key().substr(prefix.size());
    const std::string_view entry = rows->value();
    if (place.size() != sizeof(uint32_t) || entry.size() != Window::Key::kSize) return damaged();
    const uint32_t at = core::LoadBigEndian32(place.data());
    if (at >= window->ring_.size()) break;  // of a window from before it was forgotten
    window->ring_[at] = Window::Key::From(entry);
    window->known_.insert(window->ring_[at]);
  }
  LEAT_TRY(rows->status());
  if (window->known_.size() != window->ring_.size()) return damaged();
  return {};
}

Status Shard::ReadInput(std::string_view topic, uint32_t partition, InputPosition* position,
                        Window* window) const {
  const uint32_t incarnation = position->incarnation;
  LEAT_ASSIGN(*position, Input(topic, partition));
  position->incarnation = incarnation;
  *window = {};
  return ReadWindow(topic, partition, window);
}

void Shard::ForgetInput(std::string_view topic, uint32_t partition) {
  state_->batch_.Delete(Family::kMeta, InputKey(topic, partition));
  state_->batch_.Delete(Family::kKeys, WindowKey(topic, partition));
  staged_ = true;
}

void Shard::SetInput(std::string_view topic, uint32_t partition, const InputPosition& position,
                     Window* window) {
  state_->batch_.Put(Family::kMeta, InputKey(topic, partition), Pack(position));
  staged_ = true;
  if (window == nullptr || window->staged_ == window->count_) return;
  const std::string key = WindowKey(topic, partition);
  const uint64_t in_ring = window->ring_.size();
  for (uint64_t number = std::max(window->staged_, window->count_ - in_ring);
       number < window->count_; ++number) {
    const auto at = static_cast<uint32_t>(number % kWindowEvents);
    std::string place = key + "/";
    core::AppendBigEndian32(at, &place);
    state_->batch_.Put(Family::kKeys, place, window->ring_[at].View());
  }
  std::string count;
  core::AppendVarint(window->count_, &count);
  state_->batch_.Put(Family::kKeys, key, count);
  window->staged_ = window->count_;
}

Status Shard::KeepInput(std::string_view topic, uint32_t partition,
                        const InputPosition& position) const {
  LEAT_TRY(database_->CheckRoom());
  Batch batch(*database_);
  batch.Put(Family::kMeta, InputKey(topic, partition), Pack(position));
  if (position.next == 0) batch.Delete(Family::kKeys, WindowKey(topic, partition));
  return database_->Write(batch, false);
}

Status Shard::Commit(bool sync) {
  LEAT_TRY(failed_);
  if (auto room = log_ == nullptr ? database_->CheckRoom() : log_->CheckRoom(); !room) {
    LEAT_TRY(Abandon());
    return std::unexpected(room.error().WithContext(name()));
  }
  state_->Collect();
  if (log_ != nullptr) log_->Seal(&state_->batch_);
  if (auto status = database_->Write(state_->batch_, sync); !status) {
    std::lock_guard lock(failed_mutex_);
    failed_ = std::unexpected(status.error().WithContext(name()));
    return failed_;
  }
  if (log_ != nullptr) log_->Publish();
  state_->Committed();
  staged_ = false;
  return {};
}

Status Shard::Abandon() {
  LEAT_TRY(failed_);
  if (log_ != nullptr) log_->Abandon();
  state_->Reset();
  staged_ = false;
  return {};
}

Status Shard::ClearRows() {
  state_->Reset();
  Batch batch(*database_);
  // Past every row key: they begin with a letter.
  batch.DeleteRange(Family::kRows, "", "\xff");
  if (log_ == nullptr) {
    batch.DeleteRange(Family::kMeta, kInputPrefix, eventstore::PrefixEnd(kInputPrefix));
    batch.DeleteRange(Family::kKeys, kWindowPrefix, eventstore::PrefixEnd(kWindowPrefix));
  } else {
    batch.Put(Family::kMeta, kRebuildingKey, "1");  // what was decided from the input is in the log, and stays
  }
  return database_->Write(batch, true);
}

Result<bool> Shard::Rebuilding() const {
  std::string value;
  return database_->Get(Family::kMeta, kRebuildingKey, &value);
}

void Shard::EndRebuild() {
  state_->batch_.Delete(Family::kMeta, kRebuildingKey);
  staged_ = true;
}

}  // namespace leat::runtime
