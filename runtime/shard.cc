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

}  // namespace

Result<std::unique_ptr<Shard>> Shard::Open(const ShardOptions& options) {
  std::unique_ptr<Shard> shard(new Shard(options));
  eventstore::DatabaseOptions database;
  database.path = options.path;
  database.strict_recovery = options.has_log;
  database.resources = options.resources;
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
  if (!found) return position;
  core::ByteReader reader(value);
  uint64_t incarnation;
  if (!reader.TakeVarint(&position.next) || !reader.TakeVarint(&incarnation)) {
    return Fail(ErrorClass::kCorrupt, name() + ": the input position cannot be read");
  }
  position.incarnation = static_cast<uint32_t>(incarnation);
  return position;
}

void Shard::SetInput(std::string_view topic, uint32_t partition, const InputPosition& position) {
  std::string value;
  core::AppendVarint(position.next, &value);
  core::AppendVarint(position.incarnation, &value);
  state_->batch_.Put(Family::kMeta, InputKey(topic, partition), value);
  staged_ = true;
}

Status Shard::Commit(bool sync) {
  LEAT_TRY(failed_);
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
  if (log_ != nullptr && log_->StagedBytes() > 0) {
    return Fail(ErrorClass::kConflict, name() + " was stopped by an error in the middle of a commit",
                "start leat again");
  }
  state_->Reset();
  staged_ = false;
  return {};
}

Status Shard::ClearRows() {
  state_->Reset();
  Batch batch(*database_);
  // Past every row key: they begin with a letter.
  batch.DeleteRange(Family::kRows, "", "\xff");
  batch.DeleteRange(Family::kMeta, kInputPrefix, eventstore::PrefixEnd(kInputPrefix));
  if (log_ != nullptr) batch.Put(Family::kMeta, kRebuildingKey, "1");
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
