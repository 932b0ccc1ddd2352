#include "producers/ingest/rows.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "core/amount.h"
#include "core/clock.h"
#include "core/bytes.h"
#include "core/hash.h"

namespace leat::ingest {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr size_t kHashBytes = Hash::kSize;
constexpr size_t kAddressBytes = Address::kSize;
constexpr size_t kFixedBytesMax = 1024;  // of a packed row, beside its trace address and id
constexpr size_t kPackedBytesMax = kFixedBytesMax + 4 * kTraceDepthMax + kTraceIdBytesMax;
static_assert(kPackedBytesMax <= kRecordBytesMax);

constexpr std::array<std::string_view, 5> kKindNames = {"block", "transaction", "receipt", "trace",
                                                        "withdrawal"};
// Rows of the streaming export that move no ether.
constexpr std::string_view kIgnoredTypes[] = {"log", "token_transfer", "token", "contract"};

constexpr Column kBlockColumns[] = {Column::kNumber, Column::kHash, Column::kParentHash,
                                    Column::kMiner, Column::kTimestamp};
constexpr Column kTransactionColumns[] = {Column::kHash, Column::kBlockNumber, Column::kFromAddress,
                                          Column::kToAddress, Column::kValue};
constexpr Column kReceiptColumns[] = {Column::kTransactionHash, Column::kGasUsed,
                                      Column::kBlockNumber};
constexpr Column kTraceColumns[] = {Column::kBlockNumber, Column::kFromAddress, Column::kToAddress,
                                    Column::kValue, Column::kTraceType};
constexpr Column kWithdrawalColumns[] = {Column::kBlockNumber, Column::kIndex,
                                         Column::kValidatorIndex, Column::kAddress};

std::span<const Column> RequiredColumns(RowKind kind) {
  switch (kind) {
    case RowKind::kBlock:
      return kBlockColumns;
    case RowKind::kTransaction:
      return kTransactionColumns;
    case RowKind::kReceipt:
      return kReceiptColumns;
    case RowKind::kTrace:
      return kTraceColumns;
    case RowKind::kWithdrawal:
      return kWithdrawalColumns;
  }
  return {};
}

// A hex digit: its value in the low four bits, and what it is.
constexpr uint8_t kLowerLetter = 0x10;
constexpr uint8_t kUpperLetter = 0x20;
constexpr uint8_t kNoDigit = 0x80;
constexpr std::array<uint8_t, 256> kHexDigits = [] {
  std::array<uint8_t, 256> table{};
  table.fill(kNoDigit);
  for (unsigned i = 0; i < 10; ++i) table['0' + i] = static_cast<uint8_t>(i);
  for (unsigned i = 10; i < 16; ++i) {
    table['a' + i - 10] = static_cast<uint8_t>(i | kLowerLetter);
    table['A' + i - 10] = static_cast<uint8_t>(i | kUpperLetter);
  }
  return table;
}();

// Decodes 2*size digits; returns the flags of all of them together.
uint8_t DecodeHex(const char* digits, size_t size, char* out) {
  uint8_t seen = 0;
  for (size_t i = 0; i < size; ++i) {
    const uint8_t high = kHexDigits[static_cast<uint8_t>(digits[2 * i])];
    const uint8_t low = kHexDigits[static_cast<uint8_t>(digits[2 * i + 1])];
    seen |= high | low;
    out[i] = static_cast<char>(high << 4 | (low & 0xf));
  }
  return seen;
}

bool HasHexPrefix(std::string_view text) {
  return text.size() >= 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

constexpr uint64_t kTransactionTypeMax = 255;
constexpr uint64_t kTimestampMax = core::kTimeMaxUs / core::kMicrosPerSecond;
// Of an empty list: the root of the empty trie.
constexpr std::string_view kNoWithdrawalsRoot =
    "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421";
constexpr size_t kPlainDigitsMax = 19;  // always below 2^64

// Decimal digits only, at most kPlainDigitsMax.
bool DecodePlainDecimal(std::string_view text, uint64_t* out) {
  if (text.empty() || text.size() > kPlainDigitsMax) return false;
  uint64_t value = 0;
  for (const char c : text) {
    const auto digit = static_cast<uint8_t>(c - '0');
    if (digit > 9) return false;
    value = value * 10 + digit;
  }
  *out = value;
  return true;
}

// Takes a row's parts from its record. The records are our own, so what does not fit is a defect.
class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : reader_(bytes) {}

  uint64_t Number() {
    uint64_t value = 0;
    LEAT_ASSERT(reader_.TakeVarint(&value));
    return value;
  }
  std::string_view Bytes(size_t size) {
    std::string_view out;
    LEAT_ASSERT(reader_.TakeBytes(size, &out));
    return out;
  }
  std::string_view Text() {
    std::string_view out;
    LEAT_ASSERT(reader_.TakeString(&out));
    return out;
  }
  std::string_view HashBytes() { return Bytes(kHashBytes); }
  std::string_view AddressBytes() { return Bytes(kAddressBytes); }
  uint8_t Byte() { return static_cast<uint8_t>(Bytes(1)[0]); }

  // The next of the flags that were packed first.
  void TakeFlags() { flags_ = Number(); }
  bool Flag() {
    const bool set = (flags_ & 1) != 0;
    flags_ >>= 1;
    return set;
  }

 private:
  core::ByteReader reader_;
  uint64_t flags_ = 0;
};

}  // namespace

std::string_view RowKindName(RowKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

std::optional<RowKind> KindOfFileName(std::string_view file_name) {
  std::optional<RowKind> found;
  for (size_t i = 0; i < kKindNames.size(); ++i) {
    if (file_name.find(std::string(kKindNames[i]) + "s") == std::string_view::npos) continue;
    if (found) return std::nullopt;
    found = static_cast<RowKind>(i);
  }
  return found;
}

std::optional<RowKind> KindOfColumns(const TableReader& row) {
  if (row.Has(Column::kTraceType)) return RowKind::kTrace;
  if (row.Has(Column::kParentHash)) return RowKind::kBlock;
  if (row.Has(Column::kValidatorIndex)) return RowKind::kWithdrawal;
  if (row.Has(Column::kTransactionHash)) {
    if (row.Has(Column::kGasUsed)) return RowKind::kReceipt;
  } else if (row.Has(Column::kHash) && row.Has(Column::kFromAddress)) {
    return RowKind::kTransaction;
  }
  return std::nullopt;
}

Result<RowKind> KindOfType(const TableReader& row, bool* ignored) {
  const std::string_view type = row.Get(Column::kType);
  *ignored = false;
  for (size_t i = 0; i < kKindNames.size(); ++i) {
    if (type == kKindNames[i]) return static_cast<RowKind>(i);
  }
  *ignored = std::find(std::begin(kIgnoredTypes), std::end(kIgnoredTypes), type) !=
             std::end(kIgnoredTypes);
  if (*ignored) return RowKind::kBlock;
  return std::unexpected(row.ErrorHere(
      "field type: \"" + std::string(type.substr(0, 80)) + "\" is not a type of row",
      "ethereum-etl writes block, transaction, receipt, trace, withdrawal, log, token_transfer, "
      "token, contract"));
}

Status CheckColumns(RowKind kind, const TableReader& row) {
  const auto missing = [&](std::string_view name) {
    const std::string what =
        std::string(RowKindName(kind)) + "s need the column " + std::string(name);
    const std::string remedy =
        "export the column with ethereum-etl, or name the file after what "
        "it holds: blocks, transactions, receipts, traces, withdrawals";
    // A CSV file lacks it as a whole: the header line is at fault.
    return row.is_json() ? row.ErrorHere(what, remedy)
                         : Error{ErrorClass::kInvalid, row.path() + ":1: " + what, remedy};
  };
  for (const Column column : RequiredColumns(kind)) {
    if (!row.Has(column)) return std::unexpected(missing(ColumnName(column)));
  }
  if (kind == RowKind::kWithdrawal && !row.Has(Column::kAmountGwei) && !row.Has(Column::kAmount)) {
    return std::unexpected(missing("amount_gwei"));
  }
  return {};
}

// Writes one record: kind, place, block hash (behind a byte that says whether), content. Errors
// stick: the first one is kept, and Emit returns it.
class RowPacker::Encoder {
 public:
  explicit Encoder(const TableReader& row) : row_(row) {}

  bool failed() const { return error_ != nullptr; }
  Error TakeError() { return std::move(*error_); }

  // Begins a record. Its kind is packed before its content.
  void Begin(RowKind kind, Place place, Column hash_column) {
    const std::string_view block_hash = row_.Get(hash_column);
    at_ = bytes_;
    *at_++ = static_cast<char>(kind);
    std::memcpy(at_, &place.value, sizeof place.value);
    at_ += sizeof place.value;
    *at_++ = block_hash.empty() ? 0 : 1;
    if (!block_hash.empty()) Hash(hash_column);
  }
  std::string_view Record() const { return {bytes_, static_cast<size_t>(at_ - bytes_)}; }

  void Fail(std::string_view field, std::string what, std::string remedy) {
    if (error_ == nullptr) {
      error_ = std::make_unique<Error>(row_.ErrorHere(
          "field " + std::string(field) + ": " + std::move(what), std::move(remedy)));
    }
  }

  void RawByte(uint8_t byte) { *at_++ = static_cast<char>(byte); }
  void RawNumber(uint64_t value) {
    while (value >= 0x80) {
      *at_++ = static_cast<char>(value | 0x80);
      value >>= 7;
    }
    *at_++ = static_cast<char>(value);
  }
  void RawBytes(std::string_view bytes) { at_ = std::copy(bytes.begin(), bytes.end(), at_); }
  void RawText(std::string_view bytes) {
    RawNumber(bytes.size());
    RawBytes(bytes);
  }

  uint64_t ParseNumber(std::string_view text, std::string_view field) {
    uint64_t value = 0;
    if (DecodePlainDecimal(text, &value)) return value;
    auto parsed = core::ParseUint64(text);
    if (parsed) return *parsed;
    FailWith(text, field, std::move(parsed).error());
    return 0;
  }
  void Number(std::string_view text, std::string_view field) {
    RawNumber(ParseNumber(text, field));
  }
  void Amount(std::string_view text, std::string_view field) {
    uint64_t value = 0;
    if (DecodePlainDecimal(text, &value)) {
      const unsigned size = (64u - static_cast<unsigned>(__builtin_clzll(value | 1)) + 7) / 8;
      const unsigned used = value == 0 ? 0 : size;
      *at_++ = static_cast<char>(used);
      for (unsigned i = used; i-- > 0;) *at_++ = static_cast<char>(value >> (8 * i));
      return;
    }
    auto parsed = core::Amount::ParseUnsigned(text);
    if (parsed) return RawText(parsed->Magnitude());
    FailWith(text, field, std::move(parsed).error());
  }
  void Hash(std::string_view text, std::string_view field) { Fixed<kHashBytes>(text, field); }
  void Address(std::string_view text, std::string_view field) { Fixed<kAddressBytes>(text, field); }

  // The same for a column; an empty field is an error.
  void Number(Column column) { Number(row_.Get(column), ColumnName(column)); }
  void Timestamp(Column column) {
    const uint64_t seconds = ParseNumber(row_.Get(column), ColumnName(column));
    if (seconds > kTimestampMax) {
      Fail(ColumnName(column), std::to_string(seconds) + " lies after the year 9999",
           "write Unix time in seconds");
    }
    RawNumber(seconds);
  }
  void Amount(Column column) { Amount(row_.Get(column), ColumnName(column)); }
  void Hash(Column column) { Hash(row_.Get(column), ColumnName(column)); }
  void Address(Column column) { Address(row_.Get(column), ColumnName(column)); }

  // One bit for each column: whether the row has it. Its value follows where it is packed.
  void Flags(std::initializer_list<std::pair<Column, bool>> wanted) {
    uint64_t flags = 0;
    unsigned bit = 0;
    for (const auto& [column, want] : wanted) {
      flags |= static_cast<uint64_t>(want && !row_.Get(column).empty()) << bit++;
    }
    flags_ = flags;
    RawNumber(flags);
  }
  // The next of the flags.
  bool Flag() {
    const bool set = (flags_ & 1) != 0;
    flags_ >>= 1;
    return set;
  }

 private:
  void FailWith(std::string_view text, std::string_view field, Error error) {
    if (text.empty()) return Fail(field, "is empty", "every row of this kind needs it");
    Fail(field, std::move(error.message), std::move(error.remedy));
  }

  template <size_t N>
  void Fixed(std::string_view text, std::string_view field) {
    if (text.size() == 2 + 2 * N && HasHexPrefix(text)) {
      const uint8_t seen = DecodeHex(text.data() + 2, N, at_);
      constexpr uint8_t kMixed = kLowerLetter | kUpperLetter;
      const bool checked = N == kHashBytes || (seen & kMixed) != kMixed;
      if ((seen & kNoDigit) == 0 && checked) {
        at_ += N;
        return;
      }
    }
    // Wrong, or mixed case whose checksum has to hold: what it is, core knows.
    if constexpr (N == kAddressBytes) {
      auto parsed = core::ParseAddress(text);
      if (parsed) return RawBytes(parsed->View());
      FailWith(text, field, std::move(parsed).error());
    } else {
      auto parsed = core::ParseHash(text);
      if (parsed) return RawBytes(parsed->View());
      FailWith(text, field, std::move(parsed).error());
    }
  }

  const TableReader& row_;
  std::unique_ptr<Error> error_;
  uint64_t flags_ = 0;
  char* at_ = bytes_;
  char bytes_[kPackedBytesMax];
};

struct RowPacker::Scratch {
  std::string bytes;   // decoded input
  std::string padded;  // nested JSON with the parser's padding
  ondemand::parser parser;
};

RowPacker::RowPacker(ExternalSorter* sorter, bool excerpt)
    : sorter_(sorter), excerpt_(excerpt), scratch_(std::make_unique<Scratch>()) {}
RowPacker::~RowPacker() = default;

Status RowPacker::Add(RowKind kind, const TableReader& row, uint32_t file) {
  const Place place(file, row.line());
  switch (kind) {
    case RowKind::kBlock:
      return AddBlock(row, place);
    case RowKind::kTransaction:
      return AddTransaction(row, place);
    case RowKind::kReceipt:
      return AddReceipt(row, place, false);
    case RowKind::kTrace:
      return AddTrace(row, place);
    case RowKind::kWithdrawal:
      return AddWithdrawal(row, place);
  }
  return {};
}

Status RowPacker::Emit(Encoder* encoder, RowKind kind, uint64_t number) {
  if (encoder->failed()) return std::unexpected(encoder->TakeError());
  ++counts_[static_cast<size_t>(kind)];
  return sorter_->Add(number, encoder->Record());
}

Status RowPacker::AddBlock(const TableReader& row, Place place) {
  Encoder out(row);
  const uint64_t number = out.ParseNumber(row.Get(Column::kNumber), "number");
  if (row.Get(Column::kHash).empty()) out.Fail("hash", "is empty", "every block needs it");
  out.Begin(RowKind::kBlock, place, Column::kHash);
  out.Flags({{Column::kDifficulty, true},
             {Column::kTotalDifficulty, true},
             {Column::kBaseFeePerGas, true},
             {Column::kStateRoot, true},
             {Column::kGasLimit, true},
             {Column::kGasUsed, true},
             {Column::kTransactionCount, true},
             {Column::kBlobGasUsed, true},
             {Column::kExcessBlobGas, true},
             {Column::kWithdrawals, true}});
  out.Hash(Column::kParentHash);
  out.Address(Column::kMiner);
  out.Timestamp(Column::kTimestamp);
  if (out.Flag()) out.Amount(Column::kDifficulty);
  if (out.Flag()) out.Amount(Column::kTotalDifficulty);
  if (out.Flag()) out.Amount(Column::kBaseFeePerGas);
  if (out.Flag()) out.Hash(Column::kStateRoot);
  if (out.Flag()) out.Number(Column::kGasLimit);
  if (out.Flag()) out.Number(Column::kGasUsed);
  if (out.Flag()) out.Number(Column::kTransactionCount);
  if (out.Flag()) out.Number(Column::kBlobGasUsed);
  if (out.Flag()) out.Number(Column::kExcessBlobGas);
  const std::string_view root = row.Get(Column::kWithdrawalsRoot);
  out.RawByte(root.empty() || root == "0x" || root == kNoWithdrawalsRoot ? 0 : 1);
  LEAT_TRY(Emit(&out, RowKind::kBlock, number));
  return row.Get(Column::kWithdrawals).empty() ? Status()
                                               : AddNestedWithdrawals(row, place, number);
}

HeaderRow::HeaderRow(std::string_view content) {
  Decoder in(content);
  in.TakeFlags();
  parent_hash = in.HashBytes();
  miner = in.AddressBytes();
  timestamp_s = in.Number();
  if (in.Flag()) difficulty = in.Text();
  if (in.Flag()) total_difficulty = in.Text();
  if (in.Flag()) base_fee_per_gas = in.Text();
  if (in.Flag()) state_root = in.HashBytes();
  if (in.Flag()) gas_limit = in.Number();
  if (in.Flag()) gas_used = in.Number();
  if (in.Flag()) transaction_count = in.Number();
  if (in.Flag()) blob_gas_used = in.Number();
  if (in.Flag()) excess_blob_gas = in.Number();
  lists_withdrawals = in.Flag();
  has_withdrawals = in.Byte() != 0;
}

namespace {

// The number of hashes in a JSON array or a list with ';' or ','; -1 when one is not a hash.
int64_t CountHashes(std::string_view text) {
  constexpr std::string_view kBetween = "[]\"';, \t";
  int64_t count = 0;
  for (;;) {
    const size_t begin = text.find_first_not_of(kBetween);
    if (begin == std::string_view::npos) return count;
    text.remove_prefix(begin);
    const size_t size = std::min(text.find_first_of(kBetween), text.size());
    if (!core::ParseHash(text.substr(0, size))) return -1;
    text.remove_prefix(size);
    ++count;
  }
}

}  // namespace

Status RowPacker::AddTransaction(const TableReader& row, Place place) {
  Encoder out(row);
  const uint64_t number = out.ParseNumber(row.Get(Column::kBlockNumber), "block_number");
  out.Begin(RowKind::kTransaction, place, Column::kBlockHash);
  out.Flags({{Column::kToAddress, true},
             {Column::kTransactionIndex, true},
             {Column::kNonce, true},
             {Column::kGas, true},
             {Column::kTransactionType, true},
             {Column::kGasPrice, true},
             {Column::kMaxFeePerGas, true},
             {Column::kMaxPriorityFeePerGas, true},
             {Column::kBlobCount, true},
             {Column::kBlobVersionedHashes, row.Get(Column::kBlobCount).empty()},
             {Column::kBlockTimestamp, excerpt_}});
  out.Hash(Column::kHash);
  out.Address(Column::kFromAddress);
  out.Amount(Column::kValue);
  if (out.Flag()) out.Address(Column::kToAddress);
  if (out.Flag()) out.Number(Column::kTransactionIndex);
  if (out.Flag()) out.Number(Column::kNonce);
  if (out.Flag()) out.Number(Column::kGas);
  if (out.Flag()) {
    const uint64_t type = out.ParseNumber(row.Get(Column::kTransactionType), "transaction_type");
    if (type > kTransactionTypeMax) {
      out.Fail("transaction_type", std::to_string(type) + " is not a type",
               "types are one byte (EIP-2718)");
    }
    out.RawNumber(type);
  }
  if (out.Flag()) out.Amount(Column::kGasPrice);
  if (out.Flag()) out.Amount(Column::kMaxFeePerGas);
  if (out.Flag()) out.Amount(Column::kMaxPriorityFeePerGas);
  if (out.Flag()) {
    const uint64_t blobs = out.ParseNumber(row.Get(Column::kBlobCount), "blob_count");
    if (blobs > kBlobsPerTransactionMax) {
      out.Fail("blob_count", std::to_string(blobs) + " blobs",
               "at most " + std::to_string(kBlobsPerTransactionMax) + " are taken");
    }
    out.RawNumber(blobs);
  }
  if (out.Flag()) {
    const int64_t blobs = CountHashes(row.Get(Column::kBlobVersionedHashes));
    if (blobs < 0 || blobs > static_cast<int64_t>(kBlobsPerTransactionMax)) {
      out.Fail("blob_versioned_hashes",
               "is not a list of at most " + std::to_string(kBlobsPerTransactionMax) + " hashes",
               "write a JSON array, or hashes with ';' between them");
    }
    out.RawNumber(static_cast<uint64_t>(blobs));
  }
  if (out.Flag()) out.Timestamp(Column::kBlockTimestamp);

  const std::string_view input = row.Get(Column::kInput);
  if (input.empty() || input == "0x") {
    out.RawNumber(0);
  } else {
    std::string& bytes = scratch_->bytes;
    const bool prefixed = input.size() % 2 == 0 && HasHexPrefix(input);
    if (prefixed) bytes.resize(input.size() / 2 - 1);
    if (!prefixed || (DecodeHex(input.data() + 2, bytes.size(), bytes.data()) & kNoDigit) != 0) {
      out.Fail("input", "is not hex", "write 0x and an even number of hex digits");
    } else {
      constexpr size_t kSelectorBytes = 4;
      out.RawNumber(bytes.size());
      out.RawText(std::string_view(bytes).substr(0, kSelectorBytes));
      out.RawBytes(core::Keccak256(bytes).View());
    }
  }
  // Not kept, but a wrong number is wrong.
  if (const std::string_view fee = row.Get(Column::kMaxFeePerBlobGas); !fee.empty()) {
    if (auto parsed = core::Amount::ParseUnsigned(fee); !parsed) {
      out.Fail("max_fee_per_blob_gas", std::move(parsed).error().message,
               "write decimal digits only");
    }
  }
  LEAT_TRY(Emit(&out, RowKind::kTransaction, number));
  return row.Get(Column::kReceiptGasUsed).empty() ? Status() : AddReceipt(row, place, true);
}

TransactionRow::TransactionRow(std::string_view content) {
  Decoder in(content);
  in.TakeFlags();
  hash = in.HashBytes();
  from = in.AddressBytes();
  value = in.Text();
  if (in.Flag()) to = in.AddressBytes();
  if (in.Flag()) index = in.Number();
  if (in.Flag()) nonce = in.Number();
  if (in.Flag()) gas = in.Number();
  if (in.Flag()) type = in.Number();
  if (in.Flag()) gas_price = in.Text();
  if (in.Flag()) max_fee_per_gas = in.Text();
  if (in.Flag()) max_priority_fee_per_gas = in.Text();
  if (in.Flag()) blob_count = in.Number();
  if (in.Flag()) blob_count = in.Number();  // counted from the hashes
  if (in.Flag()) block_timestamp_s = in.Number();
  input_length = in.Number();
  if (input_length == 0) return;
  input_selector = in.Text();
  input_hash = in.HashBytes();
}

Status RowPacker::AddReceipt(const TableReader& row, Place place, bool in_transaction) {
  const auto pick = [&](Column alone, Column nested) { return in_transaction ? nested : alone; };
  const Column status = pick(Column::kStatus, Column::kReceiptStatus);
  const Column price = pick(Column::kEffectiveGasPrice, Column::kReceiptEffectiveGasPrice);
  const Column contract = pick(Column::kContractAddress, Column::kReceiptContractAddress);
  const Column blob_gas = pick(Column::kBlobGasUsed, Column::kReceiptBlobGasUsed);
  const Column blob_price = pick(Column::kBlobGasPrice, Column::kReceiptBlobGasPrice);
  const bool about_block = excerpt_ && !in_transaction;

  Encoder out(row);
  const uint64_t number = out.ParseNumber(row.Get(Column::kBlockNumber), "block_number");
  out.Begin(RowKind::kReceipt, place, Column::kBlockHash);
  out.Flags({{Column::kTransactionIndex, true},
             {status, true},
             {price, true},
             {contract, true},
             {blob_gas, true},
             {blob_price, true},
             {Column::kMiner, about_block},
             {Column::kBaseFeePerGas, about_block},
             {Column::kBlockTimestamp, about_block}});
  out.Hash(pick(Column::kTransactionHash, Column::kHash));
  out.Number(pick(Column::kGasUsed, Column::kReceiptGasUsed));
  if (out.Flag()) out.Number(Column::kTransactionIndex);
  if (out.Flag()) {
    const uint64_t value = out.ParseNumber(row.Get(status), ColumnName(status));
    if (value > 1) {
      out.Fail(ColumnName(status), std::to_string(value) + " is not a status",
               "write 1 for success, 0 for failure, nothing when it is unknown");
    }
    out.RawByte(static_cast<uint8_t>(value));
  }
  if (out.Flag()) out.Amount(price);
  if (out.Flag()) out.Address(contract);
  if (out.Flag()) out.Number(blob_gas);
  if (out.Flag()) out.Amount(blob_price);
  if (out.Flag()) out.Address(Column::kMiner);
  if (out.Flag()) out.Amount(Column::kBaseFeePerGas);
  if (out.Flag()) out.Timestamp(Column::kBlockTimestamp);
  return Emit(&out, RowKind::kReceipt, number);
}

ReceiptRow::ReceiptRow(std::string_view content) {
  Decoder in(content);
  in.TakeFlags();
  transaction_hash = in.HashBytes();
  gas_used = in.Number();
  if (in.Flag()) index = in.Number();
  if (in.Flag()) success = in.Byte() == 1;
  if (in.Flag()) effective_gas_price = in.Text();
  if (in.Flag()) contract_address = in.AddressBytes();
  if (in.Flag()) blob_gas_used = in.Number();
  if (in.Flag()) blob_gas_price = in.Text();
  if (in.Flag()) miner = in.AddressBytes();
  if (in.Flag()) base_fee_per_gas = in.Text();
  if (in.Flag()) block_timestamp_s = in.Number();
}

namespace {

std::optional<TraceKind> FindTraceKind(std::string_view type, std::string_view call_type,
                                       std::string_view reward_type) {
  if (type == "call") {
    if (call_type.empty() || call_type == "call") return TraceKind::kCall;
    if (call_type == "delegatecall") return TraceKind::kDelegatecall;
    if (call_type == "callcode") return TraceKind::kCallcode;
    if (call_type == "staticcall") return TraceKind::kStaticcall;
    return std::nullopt;
  }
  if (type == "create") return TraceKind::kCreate;
  if (type == "suicide" || type == "selfdestruct") return TraceKind::kSelfdestruct;
  if (type == "genesis") return TraceKind::kGenesis;
  if (type == "daofork") return TraceKind::kIrregular;
  if (type == "reward") {
    if (reward_type == "block") return TraceKind::kBlockReward;
    return reward_type == "uncle" ? TraceKind::kUncleReward : TraceKind::kOtherReward;
  }
  return std::nullopt;
}

// "0,1", "0_1" or "[0, 1]" as 4 bytes big-endian a step; false when it is none of these.
bool DecodeTraceAddress(std::string_view text, std::string* out) {
  out->clear();
  if (text.starts_with('[')) {
    if (!text.ends_with(']')) return false;
    text = text.substr(1, text.size() - 2);
  }
  const auto trim = [](std::string_view* part) {
    while (part->starts_with(' ')) part->remove_prefix(1);
    while (part->ends_with(' ')) part->remove_suffix(1);
  };
  trim(&text);
  if (text.empty()) return true;
  for (size_t depth = 0; depth < kTraceDepthMax; ++depth) {
    const size_t size = std::min(text.find_first_of(",_"), text.size());
    std::string_view part = text.substr(0, size);
    trim(&part);
    uint64_t step = 0;
    if (!DecodePlainDecimal(part, &step) || step > UINT32_MAX) return false;
    core::AppendBigEndian32(static_cast<uint32_t>(step), out);
    if (size == text.size()) return true;
    text.remove_prefix(size + 1);
  }
  return false;
}

}  // namespace

Status RowPacker::AddTrace(const TableReader& row, Place place) {
  Encoder out(row);
  const uint64_t number = out.ParseNumber(row.Get(Column::kBlockNumber), "block_number");
  const std::string_view type = row.Get(Column::kTraceType);
  const auto kind = FindTraceKind(type, row.Get(Column::kCallType), row.Get(Column::kRewardType));
  if (!kind) {
    if (type == "call") {
      out.Fail("call_type",
               "\"" + std::string(row.Get(Column::kCallType).substr(0, 80)) + "\" is not known",
               "call, delegatecall, callcode, staticcall are");
    } else {
      out.Fail("trace_type", "\"" + std::string(type.substr(0, 80)) + "\" is not known",
               "call, create, suicide, selfdestruct, reward, genesis, daofork are");
    }
    return std::unexpected(out.TakeError());
  }
  const bool system = IsSystemTransfer(*kind);
  const bool irregular = *kind == TraceKind::kIrregular;
  bool failed = !row.Get(Column::kError).empty();
  if (const std::string_view status = row.Get(Column::kStatus); !status.empty()) {
    const uint64_t value = out.ParseNumber(status, "status");
    if (value > 1) {
      out.Fail("status", std::to_string(value) + " is not a status",
               "write 1 for success, 0 for failure, nothing when it is unknown");
    }
    failed |= value == 0;
  }
  if (system && failed) {
    out.Fail("error", "a " + std::string(type) + " that failed", "it moves value whatever happens");
  }

  out.Begin(RowKind::kTrace, place, Column::kBlockHash);
  out.Flags({{Column::kTransactionIndex, !system},
             {Column::kFromAddress, !system || irregular},
             {Column::kToAddress, true},
             {Column::kValue, true},
             {Column::kBlockTimestamp, excerpt_}});
  out.RawByte(static_cast<uint8_t>(*kind));
  out.RawByte(failed ? 1 : 0);
  if (!system) out.Hash(Column::kTransactionHash);
  if (out.Flag()) out.Number(Column::kTransactionIndex);
  if (out.Flag()) {
    out.Address(Column::kFromAddress);
  } else if (!system || irregular) {
    out.Fail("from_address", "is empty", "a " + std::string(type) + " needs it");
  }
  if (out.Flag()) {
    out.Address(Column::kToAddress);
  } else if (system || (*kind != TraceKind::kCreate && !failed)) {  // a failed creation has none
    out.Fail("to_address", "is empty", "a " + std::string(type) + " needs it");
  }
  if (out.Flag()) {
    out.Amount(Column::kValue);
  } else if (system) {
    out.Fail("value", "is empty", "a " + std::string(type) + " needs it");
  }
  if (out.Flag()) out.Timestamp(Column::kBlockTimestamp);
  std::string& address = scratch_->bytes;
  if (system) {
    address.clear();
  } else if (!DecodeTraceAddress(row.Get(Column::kTraceAddress), &address)) {
    out.Fail("trace_address",
             "\"" + std::string(row.Get(Column::kTraceAddress).substr(0, 80)) +
                 "\" is not a trace address",
             "write 0,1 or 0_1 or [0,1], at most " + std::to_string(kTraceDepthMax) + " deep");
    address.clear();
  }
  out.RawText(address);
  // Tells rewards apart that are otherwise equal; other traces have their address.
  std::string_view id = system ? row.Get(Column::kTraceId) : std::string_view();
  if (id.size() > kTraceIdBytesMax) {
    out.Fail("trace_id", std::to_string(id.size()) + " bytes",
             "at most " + std::to_string(kTraceIdBytesMax) + " are taken");
    id = {};
  }
  out.RawText(id);
  return Emit(&out, RowKind::kTrace, number);
}

TraceRow::TraceRow(std::string_view content) {
  Decoder in(content);
  in.TakeFlags();
  kind = static_cast<TraceKind>(in.Byte());
  failed = in.Byte() != 0;
  if (!IsSystemTransfer(kind)) transaction_hash = in.HashBytes();
  if (in.Flag()) index = in.Number();
  if (in.Flag()) from = in.AddressBytes();
  if (in.Flag()) to = in.AddressBytes();
  if (in.Flag()) value = in.Text();
  if (in.Flag()) block_timestamp_s = in.Number();
  trace_address = in.Text();
  trace_id = in.Text();
}

Status RowPacker::AddWithdrawal(const TableReader& row, Place place) {
  Encoder out(row);
  const uint64_t number = out.ParseNumber(row.Get(Column::kBlockNumber), "block_number");
  out.Begin(RowKind::kWithdrawal, place, Column::kBlockHash);
  out.Number(Column::kIndex);
  out.Number(Column::kValidatorIndex);
  out.Address(Column::kAddress);
  out.Number(row.Get(Column::kAmountGwei).empty() && !row.Get(Column::kAmount).empty()
                 ? Column::kAmount
                 : Column::kAmountGwei);
  return Emit(&out, RowKind::kWithdrawal, number);
}

WithdrawalRow::WithdrawalRow(std::string_view content) {
  Decoder in(content);
  index = in.Number();
  validator_index = in.Number();
  address = in.AddressBytes();
  amount_gwei = in.Number();
}

// [{"index": 1, "validator_index": 2, "address": "0x…", "amount": 3}, …], in gwei.
Status RowPacker::AddNestedWithdrawals(const TableReader& row, Place place, uint64_t number) {
  const std::string_view text = row.Get(Column::kWithdrawals);
  std::string& padded = scratch_->padded;
  padded.assign(text);
  padded.append(simdjson::SIMDJSON_PADDING, '\0');
  Encoder out(row);
  const auto fail = [&](simdjson::error_code code) {
    out.Fail("withdrawals",
             std::string("is not a JSON array of withdrawals: ") + simdjson::error_message(code),
             "write [{\"index\":…,\"validator_index\":…,\"address\":\"0x…\",\"amount\":…}]");
    return std::unexpected(out.TakeError());
  };
  ondemand::document document;
  ondemand::array array;
  if (const auto code =
          scratch_->parser.iterate(padded.data(), text.size(), padded.size()).get(document)) {
    return fail(code);
  }
  if (const auto code = document.get_array().get(array)) return fail(code);
  size_t count = 0;
  for (auto element : array) {
    ondemand::object object;
    if (const auto code = element.get_object().get(object)) return fail(code);
    if (++count > kWithdrawalsPerBlockMax) return fail(simdjson::CAPACITY);
    constexpr std::string_view kMembers[] = {"index", "validator_index", "address", "amount"};
    out.Begin(RowKind::kWithdrawal, place, Column::kHash);
    for (const std::string_view name : kMembers) {
      std::string_view token;
      if (const auto code = object.find_field_unordered(name).raw_json_token().get(token)) {
        return fail(code);
      }
      while (token.ends_with(' ') || token.ends_with('\n') || token.ends_with('\r')) {
        token.remove_suffix(1);
      }
      if (token.size() >= 2 && token.starts_with('"')) token = token.substr(1, token.size() - 2);
      const std::string field =
          "withdrawals[" + std::to_string(count - 1) + "]." + std::string(name);
      if (name == "address") {
        out.Address(token, field);
      } else {
        out.Number(token, field);
      }
    }
    LEAT_TRY(Emit(&out, RowKind::kWithdrawal, number));
  }
  return {};
}

PackedRow Unpack(std::string_view record) {
  Decoder in(record);
  PackedRow row;
  row.kind = static_cast<RowKind>(in.Byte());
  std::memcpy(&row.place.value, in.Bytes(sizeof row.place.value).data(), sizeof row.place.value);
  if (in.Byte() != 0) row.block_hash = in.HashBytes();
  const size_t head = 2 + sizeof row.place.value + row.block_hash.size();
  row.content = record.substr(head);
  return row;
}

}  // namespace leat::ingest
