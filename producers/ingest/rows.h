// Rows of ethereum-etl, checked and packed into small records that can be sorted and spilled.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/result.h"
#include "producers/ingest/external_sorter.h"
#include "producers/ingest/table_reader.h"

namespace leat::ingest {

inline constexpr size_t kTraceDepthMax = 1025;  // the EVM's call depth is 1024
inline constexpr size_t kTraceIdBytesMax = 512;
inline constexpr size_t kWithdrawalsPerBlockMax = 65536;
inline constexpr size_t kBlobsPerTransactionMax = 4096;

enum class RowKind : uint8_t { kBlock, kTransaction, kReceipt, kTrace, kWithdrawal };

// "block", "transaction", ...
std::string_view RowKindName(RowKind kind);
// By the word in a file's name ("blocks", ...); none when there is no such word, or more than one.
std::optional<RowKind> KindOfFileName(std::string_view file_name);
// By the columns that are there; none when they decide nothing.
std::optional<RowKind> KindOfColumns(const TableReader& row);
// By a row's "type" of the streaming export. `ignored` is set for rows that carry no value (logs,
// tokens). Errors: kInvalid for any other type.
Result<RowKind> KindOfType(const TableReader& row, bool* ignored);
// Errors: kInvalid, naming the file and the first required column that is not there.
Status CheckColumns(RowKind kind, const TableReader& row);

// Where a row stands: the number of its file and its line. Places compare as rows appear.
struct Place {
  static constexpr unsigned kLineBits = 40;
  uint64_t value = 0;

  Place() = default;
  Place(uint32_t file, uint64_t line) : value(static_cast<uint64_t>(file) << kLineBits | line) {}
  uint32_t file() const { return static_cast<uint32_t>(value >> kLineBits); }
  uint64_t line() const { return value & ((1ull << kLineBits) - 1); }
  auto operator<=>(const Place&) const = default;
};

// What every record begins with. Views of this and of the rows below point into the record.
struct PackedRow {
  RowKind kind;
  Place place;
  std::string_view block_hash;  // 32 bytes, or empty when the row has none
  std::string_view content;     // equal for rows that say the same
};
PackedRow Unpack(std::string_view record);

// Amounts are big-endian magnitudes without leading zeros, as chain.proto has them.
struct HeaderRow {
  std::string_view parent_hash;
  std::string_view miner;
  uint64_t timestamp_s = 0;
  std::optional<std::string_view> difficulty;
  std::optional<std::string_view> total_difficulty;
  std::optional<std::string_view> base_fee_per_gas;
  std::optional<std::string_view> state_root;
  uint64_t gas_limit = 0;
  uint64_t gas_used = 0;
  std::optional<uint64_t> transaction_count;
  std::optional<uint64_t> blob_gas_used;
  std::optional<uint64_t> excess_blob_gas;
  bool lists_withdrawals = false;  // in its own column; an empty list counts
  bool has_withdrawals = false;    // its withdrawals_root is not that of an empty list

  explicit HeaderRow(std::string_view content);
};

struct TransactionRow {
  std::string_view hash;
  std::string_view from;
  std::string_view to;  // empty for a creation
  std::string_view value;
  std::optional<uint64_t> index;
  uint64_t nonce = 0;
  uint64_t gas = 0;
  std::optional<uint64_t> type;
  std::optional<std::string_view> gas_price;
  std::optional<std::string_view> max_fee_per_gas;
  std::optional<std::string_view> max_priority_fee_per_gas;
  std::optional<uint64_t> blob_count;
  std::optional<uint64_t> block_timestamp_s;  // packed for excerpts only
  uint64_t input_length = 0;
  std::string_view input_selector;
  std::string_view input_hash;  // empty for no input

  TransactionRow() = default;
  explicit TransactionRow(std::string_view content);
};

struct ReceiptRow {
  std::string_view transaction_hash;
  uint64_t gas_used = 0;
  std::optional<uint64_t> index;
  std::optional<bool> success;
  std::optional<std::string_view> effective_gas_price;
  std::optional<std::string_view> contract_address;
  std::optional<uint64_t> blob_gas_used;
  std::optional<std::string_view> blob_gas_price;
  // Of the block; packed for excerpts only.
  std::optional<std::string_view> miner;
  std::optional<std::string_view> base_fee_per_gas;
  std::optional<uint64_t> block_timestamp_s;

  ReceiptRow() = default;
  explicit ReceiptRow(std::string_view content);
};

enum class TraceKind : uint8_t {
  kCall,
  kDelegatecall,
  kCallcode,
  kStaticcall,
  kCreate,
  kSelfdestruct,
  // From here on value that no transaction moves.
  kGenesis,
  kBlockReward,
  kUncleReward,
  kOtherReward,
  kIrregular,
};
inline bool IsSystemTransfer(TraceKind kind) { return kind >= TraceKind::kGenesis; }

struct TraceRow {
  TraceKind kind = TraceKind::kCall;
  bool failed = false;                // by an error of its own
  std::string_view transaction_hash;  // empty for system transfers
  std::optional<uint64_t> index;
  std::string_view from;  // empty where value comes into being
  std::string_view to;
  std::string_view value;
  std::string_view
      trace_address;  // 4 bytes big-endian a step, so that it compares as its numbers do
  std::string_view trace_id;
  std::optional<uint64_t> block_timestamp_s;  // packed for excerpts only

  TraceRow() = default;
  explicit TraceRow(std::string_view content);
};

struct WithdrawalRow {
  uint64_t index = 0;
  uint64_t validator_index = 0;
  std::string_view address;
  uint64_t amount_gwei = 0;

  WithdrawalRow() = default;
  explicit WithdrawalRow(std::string_view content);
};

// Checks rows and hands them to a sorter, with the block number as key. Not thread-safe; does not
// own the sorter.
class RowPacker {
 public:
  // `excerpt`: keep what a made-up header needs.
  RowPacker(ExternalSorter* sorter, bool excerpt);
  ~RowPacker();
  RowPacker(const RowPacker&) = delete;
  RowPacker& operator=(const RowPacker&) = delete;

  // A transaction row may hold its receipt, a block row its withdrawals: they become records of
  // their own. Errors: kInvalid, naming file, line and field; those of the sorter.
  Status Add(RowKind kind, const TableReader& row, uint32_t file);
  // Rows of a kind so far, duplicates included.
  uint64_t count(RowKind kind) const { return counts_[static_cast<size_t>(kind)]; }

 private:
  class Encoder;
  struct Scratch;

  Status AddBlock(const TableReader& row, Place place);
  Status AddTransaction(const TableReader& row, Place place);
  Status AddReceipt(const TableReader& row, Place place, bool in_transaction);
  Status AddTrace(const TableReader& row, Place place);
  Status AddWithdrawal(const TableReader& row, Place place);
  Status AddNestedWithdrawals(const TableReader& row, Place place, uint64_t number);
  Status Emit(Encoder* encoder, RowKind kind, uint64_t number);

  ExternalSorter* sorter_;
  bool excerpt_;
  std::array<uint64_t, 5> counts_{};
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace leat::ingest
