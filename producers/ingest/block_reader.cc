#include "producers/ingest/block_reader.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "chain/v1/chain.pb.h"
#include "core/log.h"
#include "core/progress.h"
#include "producers/ingest/block_assembler.h"
#include "producers/ingest/external_sorter.h"
#include "producers/ingest/rows.h"
#include "producers/ingest/scratch_file.h"
#include "producers/ingest/table_reader.h"

namespace leat::ingest {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kComponent = "ingest";
constexpr size_t kSpoolMemoryBytes =
    16 << 20;  // of assembled blocks, before they go to the scratch folder
constexpr size_t kHeightBytesMax = 512 << 20;  // of the packed rows of one height
constexpr size_t kFilesMax = 1 << 20;
constexpr uint64_t kRowsPerUpdate = 4096;  // of the progress bar

constexpr const char* kKindRemedy =
    "name the file after what it holds: blocks, transactions, receipts, traces, withdrawals";

std::string Count(uint64_t count, const char* noun) {
  return core::WithThousands(count) + " " + noun;
}

// The files to read, in order.
Result<std::vector<std::string>> ListFiles(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) {
      return Fail(ErrorClass::kNotFound, path + ": there is no such file or folder",
                  "check the path");
    }
    if (!fs::is_directory(status)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> names;
    fs::directory_iterator entry(path, error);
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      std::error_code entry_error;
      if (entry->is_regular_file(entry_error) && KindOfFileName(name)) {
        names.push_back(name);
      } else {
        // A table with a mistyped name should not be missed; what else lies in the folder is nobody's mistake.
        const bool table = name.ends_with(".gz") || name.ends_with(".csv") ||
                           name.find(".json") != std::string::npos;
        core::Log(table ? core::LogLevel::kWarning : core::LogLevel::kInfo, kComponent,
                  "ignored " + entry->path().string() +
                      ": its name says none of blocks, transactions, receipts, traces, "
                      "withdrawals, or it is no file");
      }
      if (names.size() > kFilesMax) {
        return Fail(ErrorClass::kExhausted,
                    path + ": more than " + std::to_string(kFilesMax) + " files",
                    "ingest them in several runs");
      }
    }
    if (error) {
      return Invalid(path + ": cannot be listed: " + error.message(), "check its permissions");
    }
    if (names.empty()) {
      return Invalid(path + ": no file in this folder says its kind by its name", kKindRemedy);
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) files.push_back((fs::path(path) / name).string());
  }
  if (files.empty()) return Invalid("no files were given", "name files or folders to ingest");
  return files;
}

// Reads all files into the sorter.
class InputReader {
 public:
  InputReader(RowPacker* packer, const std::vector<std::string>& files)
      : packer_(packer), files_(files), progress_("read", "bytes", TotalBytes(files)) {}

  Status ReadAll() {
    for (uint32_t file = 0; file < files_.size(); ++file) LEAT_TRY(ReadFile(file));
    if (ignored_ > 0) {
      core::LogInfo(kComponent, "ignored " + Count(ignored_, "rows of logs and tokens"));
    }
    return {};
  }

 private:
  static uint64_t TotalBytes(const std::vector<std::string>& files) {
    uint64_t total = 0;
    for (const std::string& file : files) {
      std::error_code error;
      const uint64_t size = fs::file_size(file, error);
      if (!error) total += size;
    }
    return total;
  }

  Status ReadFile(uint32_t file) {
    const std::string& path = files_[file];
    LEAT_ASSIGN(const auto table, TableReader::Open(path));
    const auto kind_by_name = KindOfFileName(fs::path(path).filename().string());
    std::optional<RowKind> kind_of_csv;
    if (!table->is_json()) {
      kind_of_csv = kind_by_name ? kind_by_name : KindOfColumns(*table);
      if (!kind_of_csv) {
        return Invalid(path + ":1: neither its name nor its columns say what the file holds",
                       kKindRemedy);
      }
      LEAT_TRY(CheckColumns(*kind_of_csv, *table));
    }
    for (uint64_t rows = 1;; ++rows) {
      LEAT_ASSIGN(const bool more, table->Next());
      if (!more) break;
      if (kind_of_csv) {
        LEAT_TRY(packer_->Add(*kind_of_csv, *table, file));
      } else {
        LEAT_TRY(AddJson(*table, kind_by_name, file));
      }
      if (rows % kRowsPerUpdate == 0) progress_.Update(bytes_done_ + table->bytes_read());
    }
    bytes_done_ += table->bytes_read();
    progress_.Update(bytes_done_);
    return {};
  }

  Status AddJson(const TableReader& row, std::optional<RowKind> kind, uint32_t file) {
    if (!row.Get(Column::kType).empty()) {
      bool ignored = false;
      LEAT_ASSIGN(kind, KindOfType(row, &ignored));
      if (ignored) {
        ++ignored_;
        return {};
      }
    } else if (!kind) {
      kind = KindOfColumns(row);
    }
    if (!kind) {
      return std::unexpected(row.ErrorHere(
          "neither a type, nor the members, nor the file's name say what the row is", kKindRemedy));
    }
    LEAT_TRY(CheckColumns(*kind, row));
    return packer_->Add(*kind, row, file);
  }

  RowPacker* packer_;
  const std::vector<std::string>& files_;
  core::Progress progress_;
  uint64_t bytes_done_ = 0;
  uint64_t ignored_ = 0;
};

// Collects the sorted rows of a height at a time and assembles them.
class HeightReader {
 public:
  HeightReader(std::unique_ptr<ExternalSorter::Cursor> cursor, BlockAssembler::Options options)
      : cursor_(std::move(cursor)), assembler_(std::move(options)) {}

  // The next height is in assembler(); false behind the last.
  Result<bool> Next() {
    if (!started_) {
      started_ = true;
      LEAT_ASSIGN(has_record_, cursor_->Next(&number_, &record_));
    }
    if (!has_record_) return false;
    const uint64_t number = number_;
    bytes_.clear();
    ends_.clear();
    while (has_record_ && number_ == number) {
      bytes_.append(record_);
      ends_.push_back(bytes_.size());
      if (bytes_.size() > kHeightBytesMax) {
        return Fail(ErrorClass::kExhausted,
                    "the rows of block " + std::to_string(number) + " take more than " +
                        std::to_string(kHeightBytesMax >> 20) + " MiB",
                    "check the block_number column");
      }
      LEAT_ASSIGN(has_record_, cursor_->Next(&number_, &record_));
    }
    records_.clear();
    for (size_t i = 0, begin = 0; i < ends_.size(); begin = ends_[i++]) {
      records_.push_back(std::string_view(bytes_).substr(begin, ends_[i] - begin));
    }
    LEAT_TRY(assembler_.Assemble(number, records_));
    rows_ += records_.size();
    return true;
  }

  const BlockAssembler& assembler() const { return assembler_; }
  uint64_t rows() const { return rows_; }

 private:
  std::unique_ptr<ExternalSorter::Cursor> cursor_;
  BlockAssembler assembler_;
  bool started_ = false;
  bool has_record_ = false;
  uint64_t number_ = 0;
  std::string_view record_;  // the first of the next height
  std::string bytes_;        // of this height's records, one behind the other
  std::vector<size_t> ends_;
  std::vector<std::string_view> records_;
  uint64_t rows_ = 0;
};

}  // namespace

struct BlockReader::Impl {
  // A block in the spool.
  struct Spooled {
    BlockAssembler::Turn turn;
    uint64_t offset;
    uint64_t size;
    auto operator<=>(const Spooled&) const = default;
  };

  explicit Impl(const ReadOptions& read_options)
      : options(read_options),
        sorter({.memory_bytes = options.memory_bytes, .scratch_dir = options.scratch_dir}) {}

  std::unique_ptr<HeightReader> ReadHeights() const {
    return std::make_unique<HeightReader>(
        sorter.Read(), BlockAssembler::Options{options.chain, options.excerpt, transactions_given,
                                               withdrawals_given, files, options.known_block,
                                               options.chain_begun});
  }
  Status Read();
  Status Check();
  Status FillSpool();
  Result<bool> NextSpooled(chain::v1::BlockObserved* block);
  Result<bool> NextAssembled(chain::v1::BlockObserved* block);

  ReadOptions options;
  ReadSummary summary;
  std::vector<std::string> files;
  ExternalSorter sorter;
  bool transactions_given = false;
  bool withdrawals_given = false;
  bool in_order = true;  // the order of turns is the order of numbers

  // Either blocks are assembled as they are asked for...
  std::unique_ptr<HeightReader> heights;
  size_t next_in_height = 0;
  // ...or they wait, assembled, for their turn.
  std::unique_ptr<ScratchFile> spool;
  std::vector<Spooled> spooled;
  size_t next_spooled = 0;
  std::string spool_buffer;
};

Status BlockReader::Impl::Read() {
  RowPacker packer(&sorter, options.excerpt);
  LEAT_TRY(InputReader(&packer, files).ReadAll());
  transactions_given = packer.count(RowKind::kTransaction) > 0;
  withdrawals_given = packer.count(RowKind::kWithdrawal) > 0;
  return sorter.Finish();
}

// Assembles every height once, for its errors and its order.
Status BlockReader::Impl::Check() {
  core::Progress progress("check", "rows", sorter.count());
  const auto all = ReadHeights();
  BlockAssembler::Turn last;
  for (;;) {
    LEAT_ASSIGN(const bool more, all->Next());
    if (!more) break;
    for (size_t i = 0; i < all->assembler().size(); ++i) {
      const BlockAssembler::Turn turn = all->assembler().turn(i);
      in_order &= last <= turn;
      last = turn;
    }
    progress.Update(all->rows());
  }
  const BlockAssembler::Counts& counts = all->assembler().counts();
  summary.blocks = counts.blocks;
  summary.transactions = counts.transactions;
  summary.receipts = counts.receipts;
  summary.traces = counts.traces;
  summary.withdrawals = counts.withdrawals;
  summary.fork_blocks = counts.fork_blocks;
  return {};
}

Status BlockReader::Impl::FillSpool() {
  core::Progress progress("order", "rows", sorter.count());
  spool = std::make_unique<ScratchFile>(options.scratch_dir, "spool", kSpoolMemoryBytes);
  const auto all = ReadHeights();
  chain::v1::BlockObserved block;
  for (;;) {
    LEAT_ASSIGN(const bool more, all->Next());
    if (!more) break;
    for (size_t i = 0; i < all->assembler().size(); ++i) {
      all->assembler().Build(i, &block);
      if (!block.SerializeToString(&spool_buffer)) {
        return Fail(ErrorClass::kExhausted,
                    "block " + std::to_string(block.header().number()) + " takes more than 2 GiB",
                    "check the block_number column");
      }
      spooled.push_back({all->assembler().turn(i), spool->size(), spool_buffer.size()});
      LEAT_TRY(spool->Append(spool_buffer));
    }
    progress.Update(all->rows());
  }
  std::sort(spooled.begin(), spooled.end());
  return {};
}

Result<bool> BlockReader::Impl::NextSpooled(chain::v1::BlockObserved* block) {
  if (next_spooled == spooled.size()) return false;
  const Spooled& next = spooled[next_spooled];
  spool_buffer.resize(next.size);
  LEAT_TRY(spool->ReadAt(next.offset, spool_buffer.data(), spool_buffer.size()));
  if (!block->ParseFromString(spool_buffer)) {
    return Fail(ErrorClass::kCorrupt,
                options.scratch_dir + ": a block in the scratch file has changed",
                "give each run its own scratch folder and start again");
  }
  ++next_spooled;
  return true;
}

Result<bool> BlockReader::Impl::NextAssembled(chain::v1::BlockObserved* block) {
  if (next_in_height == heights->assembler().size()) {
    LEAT_ASSIGN(const bool more, heights->Next());
    if (!more) return false;
    next_in_height = 0;
  }
  heights->assembler().Build(next_in_height++, block);
  return true;
}

BlockReader::BlockReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BlockReader::~BlockReader() = default;

Result<std::unique_ptr<BlockReader>> BlockReader::Open(const ReadOptions& options) {
  if (options.chain.empty()) return Invalid("no chain was named", "name it, such as eip155:1");
  if (options.scratch_dir.empty()) return Invalid("no scratch folder was named", "name one");
  LEAT_TRY(PrepareScratchFolder(options.scratch_dir));
  auto impl = std::make_unique<Impl>(options);
  LEAT_ASSIGN(impl->files, ListFiles(options.paths));
  LEAT_TRY(impl->Read());
  LEAT_TRY(impl->Check());
  impl->summary.spilled_bytes = impl->sorter.spilled_bytes();
  if (impl->in_order) {
    impl->heights = impl->ReadHeights();
  } else {
    LEAT_TRY(impl->FillSpool());
    impl->summary.spilled_bytes += impl->spool->written();
  }
  return std::unique_ptr<BlockReader>(new BlockReader(std::move(impl)));
}

const ReadSummary& BlockReader::summary() const { return impl_->summary; }

Result<bool> BlockReader::Next(chain::v1::BlockObserved* block) {
  return impl_->spool != nullptr ? impl_->NextSpooled(block) : impl_->NextAssembled(block);
}

}  // namespace leat::ingest
