#include "runtime/shard.h"

#include "core/bytes.h"

namespace leat::runtime {
namespace {

using eventstore::Batch;
using eventstore::Database;
using eventstore::Family;

constexpr std::string_view kInputPrefix = "input/";
constexpr std::string_view kRebuildingKey = "rebuilding";

std::string InputKey(std::string_view topic, uint32_t partition) {
  return std::string(kInputPrefix) + std::string(topic) + "/" + std::to_string(partition);
}

std::string Pack(const InputPosition& position) {
  std::string value;
  core::AppendVarint(position.next, &value);
  core::AppendVarint(position.incarnation, &value);
  core::AppendVarint(position.epoch, &value);
  core::AppendVarint(position.next_position, &value);
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

void Shard::SetInput(std::string_view topic, uint32_t partition, const InputPosition& position) {
  state_->batch_.Put(Family::kMeta, InputKey(topic, partition), Pack(position));
  staged_ = true;
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
