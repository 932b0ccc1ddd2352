#include "consumers/balances/rows.h"

namespace leat::balances {
namespace {

std::string Prefix(char kind, uint32_t chain) {
  std::string key(1, kind);
  core::AppendBigEndian32(chain, &key);
  return key;
}

std::unexpected<Error> Damaged(std::string_view what) {
  return Fail(ErrorClass::kCorrupt, "the balances' row of " + std::string(what) + " is damaged",
              "run `leat project rebuild balances`");
}

}  // namespace

AccountKey AccountKey::Of(const ledger::v1::Leg& leg) {
  if (leg.account_class() == ledger::v1::ACCOUNT_CLASS_SYSTEM) return System(leg.system_account());
  return AccountKey("m" + leg.address());
}

std::string ChainKey(std::string_view name) { return "c" + std::string(name); }
std::string AccountPrefix(uint32_t chain) {
  std::string key = Prefix('a', chain);
  core::AppendBigEndian32(kNativeAsset, &key);
  return key;
}
std::string AccountRowKey(uint32_t chain, const AccountKey& account) {
  return AccountPrefix(chain).append(account.bytes());
}
std::string EntryPrefix(uint32_t chain, const AccountKey& account) {
  std::string key = Prefix('e', chain);
  core::AppendBigEndian32(kNativeAsset, &key);
  return key.append(account.bytes());
}
std::string EntryKey(uint32_t chain, const AccountKey& account, uint64_t position, uint32_t leg) {
  std::string key = EntryPrefix(chain, account);
  core::AppendBigEndian64(position, &key);
  core::AppendBigEndian32(leg, &key);
  return key;
}
std::string TransactionKey(uint64_t position) {
  std::string key = "t";
  core::AppendBigEndian64(position, &key);
  return key;
}
std::string BlockPrefix(uint32_t chain) { return Prefix('b', chain); }
std::string BlockKey(uint32_t chain, uint64_t number, uint64_t closed_at) {
  std::string key = BlockPrefix(chain);
  core::AppendBigEndian64(number, &key);
  core::AppendBigEndian64(closed_at, &key);
  return key;
}
std::string CanonicalKey(uint32_t chain, uint64_t number) {
  std::string key = Prefix('k', chain);
  core::AppendBigEndian64(number, &key);
  return key;
}
std::string BlockHashKey(uint32_t chain, std::string_view hash) {
  return Prefix('h', chain).append(hash);
}
std::string HeadPrefix(uint32_t chain) { return Prefix('p', chain); }
std::string HeadKey(uint32_t chain, uint64_t position) {
  std::string key = HeadPrefix(chain);
  core::AppendBigEndian64(position, &key);
  return key;
}
std::string CausePrefix(std::string_view topic, uint32_t partition) {
  std::string key = "x" + std::string(topic) + "/";
  core::AppendBigEndian32(partition, &key);
  return key;
}
std::string CauseKey(std::string_view topic, uint32_t partition, uint64_t offset) {
  std::string key = CausePrefix(topic, partition);
  core::AppendBigEndian64(offset, &key);
  return key;
}

std::string Pack(const ChainRow& row) {
  std::string out;
  core::AppendVarint(row.number, &out);
  out.push_back(row.has_head ? 1 : 0);
  core::AppendVarint(row.head_number, &out);
  core::AppendVarint(row.head_closed_at, &out);
  core::AppendVarint(row.first_number, &out);
  return out;
}
Status Unpack(std::string_view bytes, ChainRow* row) {
  core::ByteReader reader(bytes);
  uint64_t number;
  uint8_t has_head;
  if (!reader.TakeVarint(&number) || !reader.TakeByte(&has_head) ||
      !reader.TakeVarint(&row->head_number) || !reader.TakeVarint(&row->head_closed_at) ||
      !reader.TakeVarint(&row->first_number)) {
    return Damaged("a chain");
  }
  row->number = static_cast<uint32_t>(number);
  row->has_head = has_head != 0;
  return {};
}

std::string Pack(const AccountRow& row) {
  std::string out;
  row.balance.AppendPacked(&out);
  core::AppendVarint(row.position, &out);
  core::AppendVarint(row.inconsistent_at, &out);
  return out;
}
Status Unpack(std::string_view bytes, AccountRow* row) {
  if (!Amount::TakePacked(&bytes, &row->balance)) return Damaged("an account");
  core::ByteReader reader(bytes);
  if (!reader.TakeVarint(&row->position) || !reader.TakeVarint(&row->inconsistent_at)) {
    return Damaged("an account");
  }
  return {};
}

void PackTo(const EntryRow& row, std::string* out) {
  row.amount.AppendPacked(out);
  row.balance.AppendPacked(out);
  out->push_back(static_cast<char>(row.kind));
  core::AppendVarint(row.block_number, out);
}
Status Unpack(std::string_view bytes, EntryRow* row) {
  if (!Amount::TakePacked(&bytes, &row->amount) || !Amount::TakePacked(&bytes, &row->balance)) {
    return Damaged("an entry");
  }
  core::ByteReader reader(bytes);
  uint8_t kind;
  if (!reader.TakeByte(&kind) || !reader.TakeVarint(&row->block_number)) {
    return Damaged("an entry");
  }
  row->kind = static_cast<ledger::v1::LegKind>(kind);
  return {};
}

std::string Pack(const BlockRow& row) {
  std::string out;
  core::AppendVarint(row.reopened_at, &out);
  row.closed.AppendToString(&out);
  return out;
}
Status Unpack(std::string_view bytes, BlockRow* row) {
  core::ByteReader reader(bytes);
  if (!reader.TakeVarint(&row->reopened_at) ||
      !row->closed.ParseFromArray(reader.Rest().data(), static_cast<int>(reader.Rest().size()))) {
    return Damaged("a block");
  }
  return {};
}

std::string Pack(const HeadRow& row) {
  std::string out(1, row.has_head ? 1 : 0);
  core::AppendVarint(row.number, &out);
  core::AppendVarint(row.closed_at, &out);
  return out;
}
Status Unpack(std::string_view bytes, HeadRow* row) {
  core::ByteReader reader(bytes);
  uint8_t has_head;
  if (!reader.TakeByte(&has_head) || !reader.TakeVarint(&row->number) ||
      !reader.TakeVarint(&row->closed_at)) {
    return Damaged("a head");
  }
  row->has_head = has_head != 0;
  return {};
}

std::string PackNumber(uint64_t value) {
  std::string out;
  core::AppendVarint(value, &out);
  return out;
}
Status UnpackNumber(std::string_view bytes, uint64_t* value) {
  core::ByteReader reader(bytes);
  if (!reader.TakeVarint(value)) return Damaged("a number");
  return {};
}

}  // namespace leat::balances
