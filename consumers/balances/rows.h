// The rows of the balances projection: keys and values, in one place for the writer and for queries. Chains are numbered
// as they appear; numbers in keys are big-endian, so that keys sort as they do.
//
//   c <chain name>                                 -> chain: number, head, where it began
//   a <chain> <asset> <account>                    -> balance now, position of its last entry, where it went below zero
//   e <chain> <asset> <account> <position> <leg>   -> entry: amount, balance after it, kind, block
//   t <position>                                   -> hash of the transaction that was posted there
//   b <chain> <block> <closing position>           -> block: what was closed there, and where it was reopened
//   k <chain> <block>                              -> closing position of the canonical block
//   h <chain> <block hash>                         -> block number
//   p <chain> <position>                           -> head after this closing or reopening
//   x <topic/partition> <offset>                   -> position of the last event decided from that input
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/amount.h"
#include "core/bytes.h"
#include "core/result.h"
#include "ledger/v1/ledger.pb.h"

namespace leat::balances {

// Assets are numbered per chain; the native one is the first.
inline constexpr uint32_t kNativeAsset = 0;

// An account in a key: a class byte, then an address or a system account's number. Mirrored accounts sort by address.
class AccountKey {
 public:
  static AccountKey Mirrored(const Address& address) {
    return AccountKey('m' + std::string(address.View()));
  }
  static AccountKey System(ledger::v1::SystemAccount account) {
    return AccountKey(std::string("s") + static_cast<char>(account));
  }
  static AccountKey Of(const ledger::v1::Leg& leg);
  std::string_view bytes() const { return bytes_; }

 private:
  explicit AccountKey(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string bytes_;
};

struct ChainRow {
  uint32_t number = 0;  // in keys
  bool has_head = false;
  uint64_t head_number = 0;
  uint64_t head_closed_at = 0;  // position of its closing
  uint64_t first_number = 0;    // of the first block ever closed
};

struct AccountRow {
  Amount balance;
  uint64_t position = 0;
  uint64_t inconsistent_at = 0;  // position plus one of the first time it was found below zero; 0: never
};

struct EntryRow {
  Amount amount;
  Amount balance;
  ledger::v1::LegKind kind{};
  uint64_t block_number = 0;
};

struct BlockRow {
  ledger::v1::BlockClosed closed;
  uint64_t reopened_at = 0;  // position plus one; 0: still closed
};

struct HeadRow {
  bool has_head = false;
  uint64_t number = 0;
  uint64_t closed_at = 0;
};

std::string ChainKey(std::string_view name);
std::string AccountPrefix(uint32_t chain);
std::string AccountRowKey(uint32_t chain, const AccountKey& account);
std::string EntryPrefix(uint32_t chain, const AccountKey& account);
std::string EntryKey(uint32_t chain, const AccountKey& account, uint64_t position, uint32_t leg);
std::string TransactionKey(uint64_t position);
std::string BlockPrefix(uint32_t chain);
std::string BlockKey(uint32_t chain, uint64_t number, uint64_t closed_at);
std::string CanonicalKey(uint32_t chain, uint64_t number);
std::string BlockHashKey(uint32_t chain, std::string_view hash);
std::string HeadPrefix(uint32_t chain);
std::string HeadKey(uint32_t chain, uint64_t position);
std::string CausePrefix(std::string_view topic, uint32_t partition);
std::string CauseKey(std::string_view topic, uint32_t partition, uint64_t offset);

std::string Pack(const ChainRow& row);
std::string Pack(const AccountRow& row);
void PackTo(const EntryRow& row, std::string* out);
std::string Pack(const BlockRow& row);
std::string Pack(const HeadRow& row);
std::string PackNumber(uint64_t value);
// Errors: kCorrupt.
Status Unpack(std::string_view bytes, ChainRow* row);
Status Unpack(std::string_view bytes, AccountRow* row);
Status Unpack(std::string_view bytes, EntryRow* row);
Status Unpack(std::string_view bytes, BlockRow* row);
Status Unpack(std::string_view bytes, HeadRow* row);
Status UnpackNumber(std::string_view bytes, uint64_t* value);

}  // namespace leat::balances
