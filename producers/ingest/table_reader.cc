#include "producers/ingest/table_reader.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

namespace leat::ingest {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr size_t kBufferBytes = 1 << 20;
constexpr uint8_t kSkipped = static_cast<uint8_t>(Column::kCount);

// In the order of Column.
constexpr std::array<std::string_view, kColumnCount> kColumnNames = {
    "type",
    "number",
    "hash",
    "parent_hash",
    "miner",
    "timestamp",
    "difficulty",
    "total_difficulty",
    "gas_limit",
    "gas_used",
    "base_fee_per_gas",
    "transaction_count",
    "state_root",
    "blob_gas_used",
    "excess_blob_gas",
    "withdrawals",
    "withdrawals_root",
    "block_number",
    "block_hash",
    "block_timestamp",
    "nonce",
    "transaction_index",
    "from_address",
    "to_address",
    "value",
    "gas",
    "gas_price",
    "input",
    "max_fee_per_gas",
    "max_priority_fee_per_gas",
    "transaction_type",
    "max_fee_per_blob_gas",
    "blob_count",
    "blob_versioned_hashes",
    "receipt_gas_used",
    "receipt_status",
    "receipt_effective_gas_price",
    "receipt_contract_address",
    "receipt_blob_gas_used",
    "receipt_blob_gas_price",
    "transaction_hash",
    "status",
    "effective_gas_price",
    "contract_address",
    "blob_gas_price",
    "trace_type",
    "call_type",
    "reward_type",
    "trace_address",
    "trace_id",
    "error",
    "index",
    "validator_index",
    "address",
    "amount",
    "amount_gwei",
};
static_assert(kColumnNames.back() == "amount_gwei");

uint8_t FindColumn(std::string_view name) {
  static const auto* const kByName = [] {
    auto* map = new std::unordered_map<std::string_view, uint8_t>;
    for (size_t i = 0; i < kColumnCount; ++i) (*map)[kColumnNames[i]] = static_cast<uint8_t>(i);
    return map;
  }();
  const auto found = kByName->find(name);
  return found == kByName->end() ? kSkipped : found->second;
}

std::string_view TrimRight(std::string_view text) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) {
    text.remove_suffix(1);
  }
  return text;
}

}  // namespace

std::string_view ColumnName(Column column) { return kColumnNames[static_cast<size_t>(column)]; }

// The keys of one file come in the same order in nearly every row, so a key is first compared with
// the one that stood at its place in the row before.
struct TableReader::Json {
  struct Key {
    std::string quoted;  // the name with its closing quote
    uint8_t column = kSkipped;
  };

  uint8_t Find(const char* raw_key, size_t place) {
    if (place >= keys.size()) keys.resize(place + 1);
    Key& key = keys[place];
    if (!key.quoted.empty() && std::memcmp(raw_key, key.quoted.data(), key.quoted.size()) == 0) {
      return key.column;
    }
    const char* end = raw_key;  // the parser has seen to it that the key is closed
    while (*end != '"') end += *end == '\\' ? 2 : 1;
    const std::string_view name(raw_key, end);
    key.column = FindColumn(name);
    // A longer one is not remembered: comparing it could read behind the buffer.
    key.quoted.assign(raw_key, name.size() < simdjson::SIMDJSON_PADDING ? name.size() + 1 : 0);
    return key.column;
  }

  ondemand::parser parser;
  std::vector<Key> keys;
};

TableReader::TableReader(std::string path) : path_(std::move(path)) {}
TableReader::~TableReader() = default;

Error TableReader::ErrorHere(const std::string& what, std::string remedy) const {
  return Error{ErrorClass::kInvalid, path_ + ":" + std::to_string(line_) + ": " + what,
               std::move(remedy)};
}

Result<std::unique_ptr<TableReader>> TableReader::Open(const std::string& path) {
  std::unique_ptr<TableReader> reader(new TableReader(path));
  LEAT_ASSIGN(reader->source_, ByteSource::Open(path));
  LEAT_TRY(reader->Fill());
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  std::string_view head(reader->buffer_.get(), reader->end_);
  if (head.starts_with(kByteOrderMark)) reader->begin_ = kByteOrderMark.size();
  head.remove_prefix(reader->begin_);
  const size_t first = head.find_first_not_of(" \t\r\n");
  // An export of a range without such rows: JSON lines have no header that would be left.
  const bool no_rows = first == std::string_view::npos && path.find(".json") != std::string::npos;
  if (first == std::string_view::npos && !no_rows) {
    return Invalid(path + ": the file is empty, without even a header line",
                   "export it again, or leave it out if there are no such rows");
  }
  if (!no_rows && head[first] == '[') {
    return Invalid(path + ": is one JSON array, not JSON lines",
                   "write one object a line, for instance with `jq -c '.[]'`");
  }
  if (no_rows || head[first] == '{') {
    reader->is_json_ = true;
    reader->json_ = std::make_unique<Json>();
  } else {
    LEAT_TRY(reader->ReadHeader());
  }
  return reader;
}

// Moves what is left to the front and reads behind it; a buffer that is full doubles.
Status TableReader::Fill() {
  const size_t kept = end_ - begin_;
  if (kept == capacity_) {
    if (capacity_ >= kRowBytesMax) {
      line_ = line_next_;
      return std::unexpected(
          ErrorHere("a row of more than " + std::to_string(kRowBytesMax >> 20) + " MiB",
                    "check for a quote that is not closed, or a file without line ends"));
    }
    const size_t capacity = std::max(kBufferBytes, 2 * capacity_);
    std::unique_ptr<char[]> larger(new char[capacity + simdjson::SIMDJSON_PADDING]);
    std::memset(larger.get() + capacity, 0, simdjson::SIMDJSON_PADDING);
    if (kept > 0) std::memcpy(larger.get(), buffer_.get() + begin_, kept);
    buffer_ = std::move(larger);
    capacity_ = capacity;
  } else {
    std::memmove(buffer_.get(), buffer_.get() + begin_, kept);
  }
  begin_ = 0;
  end_ = kept;
  LEAT_ASSIGN(const size_t got, source_->Read(buffer_.get() + end_, capacity_ - end_));
  source_ended_ = got < capacity_ - end_;
  end_ += got;
  return {};
}

// Takes the next non-empty line, without its end. With `quotes`, line ends between quotes belong to
// it, and one that holds a quote is the caller's to split with care.
Result<bool> TableReader::TakeLine(bool quotes, std::string_view* line) {
  for (;;) {
    const char* const start = buffer_.get() + begin_;
    const char* const limit = buffer_.get() + end_;
    const size_t size = end_ - begin_;
    const auto* newline = static_cast<const char*>(std::memchr(start, '\n', size));
    const char* stop = newline != nullptr ? newline : limit;
    uint64_t lines = 1;
    bool open = false;
    if (quotes && std::memchr(start, '"', static_cast<size_t>(stop - start)) != nullptr) {
      newline = nullptr;
      for (const char* at = start; at < limit;) {
        if (open) {  // only a quote can end this
          at = static_cast<const char*>(std::memchr(at, '"', static_cast<size_t>(limit - at)));
          if (at == nullptr) break;
          open = false;
        } else if (*at == '"') {
          open = true;
        } else if (*at == '\n') {
          newline = at;
          break;
        }
        ++at;
      }
      stop = newline != nullptr ? newline : limit;
      lines = static_cast<uint64_t>(std::count(start, stop, '\n')) + 1;
    }
    if (newline == nullptr && !source_ended_) {
      LEAT_TRY(Fill());
      continue;
    }
    if (size == 0) return false;
    line_ = line_next_;
    if (open) {
      return std::unexpected(
          ErrorHere("a quoted field is not closed before the file ends",
                    "check whether the file is whole; write \"\" for a quote inside quotes"));
    }
    line_next_ += lines;
    begin_ = static_cast<size_t>(stop - buffer_.get()) + (newline != nullptr ? 1 : 0);
    *line = {start, stop};
    if (line->ends_with('\r')) line->remove_suffix(1);
    if (!line->empty()) return true;
  }
}

Status TableReader::SplitCsv(std::string_view line, bool quoted,
                             std::vector<std::string_view>* fields) const {
  fields->clear();
  const char* at = line.data();
  const char* const limit = at + line.size();
  for (;;) {
    if (fields->size() == kColumnsMax) {
      return std::unexpected(ErrorHere("more than " + std::to_string(kColumnsMax) + " columns",
                                       "leave out the columns that are not needed"));
    }
    const char* next;
    if (quoted && at < limit && *at == '"') {
      // Unpacked in place: the buffer is ours, and a field only becomes shorter.
      char* to = const_cast<char*>(at);
      const char* const start = at++;
      for (;;) {
        const auto* quote =
            static_cast<const char*>(std::memchr(at, '"', static_cast<size_t>(limit - at)));
        if (quote == nullptr) {
          return std::unexpected(
              ErrorHere("a quoted field is not closed", "write \"\" for a quote inside quotes"));
        }
        const bool doubled = quote + 1 < limit && quote[1] == '"';
        const size_t size = static_cast<size_t>(quote - at) + (doubled ? 1 : 0);
        std::memmove(to, at, size);
        to += size;
        at = quote + (doubled ? 2 : 1);
        if (!doubled) break;
      }
      if (at < limit && *at != ',') {
        return std::unexpected(ErrorHere(
            "text behind the closing quote of field " + std::to_string(fields->size() + 1),
            "write \"\" for a quote inside quotes"));
      }
      fields->emplace_back(start, to);
      next = at;
    } else {
      next = static_cast<const char*>(std::memchr(at, ',', static_cast<size_t>(limit - at)));
      if (next == nullptr) next = limit;
      fields->emplace_back(at, next);
      if (quoted && fields->back().find('"') != std::string_view::npos) {
        return std::unexpected(
            ErrorHere("a quote inside field " + std::to_string(fields->size()) +
                          ", which does not begin with one",
                      "put the field in quotes and write \"\" for a quote inside them"));
      }
    }
    if (fields->back().size() > kFieldBytesMax) {
      return std::unexpected(ErrorHere("field " + std::to_string(fields->size()) + " has " +
                                           std::to_string(fields->back().size()) + " bytes",
                                       "at most 16 MiB are taken"));
    }
    if (next == limit) return {};
    at = next + 1;
  }
}

Status TableReader::ReadHeader() {
  std::string_view line;
  LEAT_TRY(TakeLine(true, &line));
  LEAT_TRY(SplitCsv(line, line.find('"') != std::string_view::npos, &cells_));
  for (const std::string_view name : cells_) {
    const uint8_t column = FindColumn(name);
    columns_.push_back(column);
    if (column == kSkipped) continue;
    if (std::exchange(in_header_[column], true)) {
      return std::unexpected(
          ErrorHere("column " + std::string(name) + " comes twice", "keep one of them"));
    }
  }
  return {};
}

Result<bool> TableReader::Next() { return is_json_ ? NextJson() : NextCsv(); }

Result<bool> TableReader::NextCsv() {
  std::string_view line;
  LEAT_ASSIGN(const bool more, TakeLine(true, &line));
  if (!more) return false;
  const bool quoted = std::memchr(line.data(), '"', line.size()) != nullptr;
  LEAT_TRY(SplitCsv(line, quoted, &cells_));
  if (cells_.size() != columns_.size()) {
    return std::unexpected(
        ErrorHere(std::to_string(cells_.size()) + " fields where the header names " +
                      std::to_string(columns_.size()) + " columns",
                  "check whether the file is whole; put fields that hold commas in quotes"));
  }
  for (size_t i = 0; i < cells_.size(); ++i) {
    if (columns_[i] != kSkipped) fields_[columns_[i]] = cells_[i];
  }
  return true;
}

Result<bool> TableReader::NextJson() {
  std::string_view line;
  do {
    LEAT_ASSIGN(const bool more, TakeLine(false, &line));
    if (!more) return false;
    line = TrimRight(line);
  } while (line.empty());

  const auto fail = [this](simdjson::error_code code) {
    return std::unexpected(
        ErrorHere(std::string("is not a JSON object: ") + simdjson::error_message(code),
                  "write one whole object a line"));
  };
  fields_ = {};
  const auto offset = static_cast<size_t>(line.data() - buffer_.get());
  ondemand::document document;
  ondemand::object object;
  if (const auto code =
          json_->parser
              .iterate(line.data(), line.size(), capacity_ + simdjson::SIMDJSON_PADDING - offset)
              .get(document)) {
    return fail(code);
  }
  if (const auto code = document.get_object().get(object)) return fail(code);
  size_t place = 0;
  for (auto member : object) {
    ondemand::field field;
    if (const auto code = std::move(member).get(field)) return fail(code);
    if (place == kColumnsMax) {
      return std::unexpected(ErrorHere("more than " + std::to_string(kColumnsMax) + " members",
                                       "leave out the members that are not needed"));
    }
    const uint8_t column = json_->Find(field.key().raw(), place++);
    if (column == kSkipped) continue;
    ondemand::value value = field.value();
    ondemand::json_type type;
    if (const auto code = value.type().get(type)) return fail(code);
    std::string_view text;
    switch (type) {
      case ondemand::json_type::array: {
        ondemand::array array;
        if (const auto code = value.get_array().get(array)) return fail(code);
        if (const auto code = array.raw_json().get(text)) return fail(code);
        break;
      }
      case ondemand::json_type::object: {
        ondemand::object inner;
        if (const auto code = value.get_object().get(inner)) return fail(code);
        if (const auto code = inner.raw_json().get(text)) return fail(code);
        break;
      }
      case ondemand::json_type::string:
        text = TrimRight(value.raw_json_token());
        text.remove_prefix(1);
        text.remove_suffix(1);
        break;
      case ondemand::json_type::null:
        text = TrimRight(value.raw_json_token());
        if (text != "null") return fail(simdjson::N_ATOM_ERROR);
        text.remove_suffix(text.size());  // absent, but named
        break;
      default:  // numbers and booleans, as they are written
        text = TrimRight(value.raw_json_token());
    }
    if (fields_[column].data() != nullptr) {
      return std::unexpected(ErrorHere(
          "member " + std::string(kColumnNames[column]) + " comes twice", "keep one of them"));
    }
    if (text.size() > kFieldBytesMax) {
      return std::unexpected(ErrorHere("field " + std::string(kColumnNames[column]) + " has " +
                                           std::to_string(text.size()) + " bytes",
                                       "at most 16 MiB are taken"));
    }
    fields_[column] = text;
  }
  const char* rest;
  if (document.current_location().get(rest) == simdjson::SUCCESS) {
    return fail(simdjson::TRAILING_CONTENT);
  }
  return true;
}

}  // namespace leat::ingest
