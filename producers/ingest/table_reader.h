// Rows of a CSV or JSON lines file, plain or gzip, with the columns of ethereum-etl.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "producers/ingest/byte_source.h"

namespace leat::ingest {

inline constexpr size_t kFieldBytesMax = 16 << 20;
inline constexpr size_t kRowBytesMax = 64 << 20;
inline constexpr size_t kColumnsMax = 1024;

// Every column that some kind of row uses. Others are skipped.
enum class Column : uint8_t {
  kType,
  kNumber,
  kHash,
  kParentHash,
  kMiner,
  kTimestamp,
  kDifficulty,
  kTotalDifficulty,
  kGasLimit,
  kGasUsed,
  kBaseFeePerGas,
  kTransactionCount,
  kStateRoot,
  kBlobGasUsed,
  kExcessBlobGas,
  kWithdrawals,
  kWithdrawalsRoot,
  kBlockNumber,
  kBlockHash,
  kBlockTimestamp,
  kNonce,
  kTransactionIndex,
  kFromAddress,
  kToAddress,
  kValue,
  kGas,
  kGasPrice,
  kInput,
  kMaxFeePerGas,
  kMaxPriorityFeePerGas,
  kTransactionType,
  kMaxFeePerBlobGas,
  kBlobCount,
  kBlobVersionedHashes,
  kReceiptGasUsed,
  kReceiptStatus,
  kReceiptEffectiveGasPrice,
  kReceiptContractAddress,
  kReceiptBlobGasUsed,
  kReceiptBlobGasPrice,
  kTransactionHash,
  kStatus,
  kEffectiveGasPrice,
  kContractAddress,
  kBlobGasPrice,
  kTraceType,
  kCallType,
  kRewardType,
  kTraceAddress,
  kTraceId,
  kError,
  kIndex,
  kValidatorIndex,
  kAddress,
  kAmount,
  kAmountGwei,
  kCount,
};
inline constexpr size_t kColumnCount = static_cast<size_t>(Column::kCount);

// As the files write it: "parent_hash".
std::string_view ColumnName(Column column);

// Reads one file, row by row, without copying fields. Not thread-safe.
//
// CSV is RFC 4180 with a header line; LF and CRLF end lines; empty lines are skipped. Anything that
// begins with '{' is JSON lines: one object a line. JSON numbers are given as they are written,
// nested arrays as their JSON text, strings without their quotes but with their escapes (no
// column's valid value has any).
class TableReader {
 public:
  // Reads the header line of CSV. Errors: those of ByteSource; kInvalid for an empty file, a column
  // that comes twice, one JSON array.
  static Result<std::unique_ptr<TableReader>> Open(const std::string& path);
  ~TableReader();
  TableReader(const TableReader&) = delete;
  TableReader& operator=(const TableReader&) = delete;

  // Goes to the next row; false behind the last. What Get gave for the row before is then invalid.
  // Errors: kInvalid, naming file and line; after an error the reader is done with.
  Result<bool> Next();

  // The field of this row; empty when it is absent: no such column, an empty CSV field, JSON null.
  std::string_view Get(Column column) const { return fields_[static_cast<size_t>(column)]; }
  // CSV: the header names the column. JSON: this row does.
  bool Has(Column column) const {
    return is_json_ ? fields_[static_cast<size_t>(column)].data() != nullptr
                    : in_header_[static_cast<size_t>(column)];
  }

  bool is_json() const { return is_json_; }
  const std::string& path() const { return path_; }
  // Where the row begins, counted from 1.
  uint64_t line() const { return line_; }
  uint64_t bytes_read() const { return source_->bytes_read(); }
  // "path:line: what"
  Error ErrorHere(const std::string& what, std::string remedy) const;

 private:
  struct Json;
  explicit TableReader(std::string path);

  Status Fill();
  Result<bool> TakeLine(bool quotes, std::string_view* line);
  Status SplitCsv(std::string_view line, bool quoted, std::vector<std::string_view>* fields) const;
  Status ReadHeader();
  Result<bool> NextCsv();
  Result<bool> NextJson();

  std::string path_;
  std::unique_ptr<ByteSource> source_;
  bool is_json_ = false;
  bool source_ended_ = false;
  std::unique_ptr<char[]> buffer_;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
  uint64_t line_ = 0;
  uint64_t line_next_ = 1;
  std::array<std::string_view, kColumnCount> fields_{};
  std::array<bool, kColumnCount> in_header_{};
  std::vector<uint8_t> columns_;  // of the CSV header: a Column, or kCount for one we skip
  std::vector<std::string_view> cells_;
  std::unique_ptr<Json> json_;
};

}  // namespace leat::ingest
