// Whole blocks out of ethereum-etl files: the reading side of `leat ingest ethereum-etl`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/bytes.h"
#include "core/result.h"

namespace leat::chain::v1 {
class BlockObserved;
}

namespace leat::ingest {

struct ReadOptions {
  // Files, and folders: of a folder every file whose name says its kind, sorted by name; the
  // others, and folders in it, are ignored with a log line.
  std::vector<std::string> paths;
  std::string chain;  // CAIP-2, such as "eip155:1"
  // Segment (false): a header for every block, and a parent in the input for every block above the
  // lowest. Excerpt: headers may be missing and heights have gaps; one block a height, in the order
  // of numbers.
  bool excerpt = false;
  // For the rows held in memory; beyond it sorted runs are spilled to scratch_dir.
  uint64_t memory_bytes = 1ull << 30;
  // Must be named. Created if needed; our files in it are removed at the end and at the next start.
  std::string scratch_dir;
  // May be empty. A parent for which it is true need not be in the input.
  std::function<Result<bool>(const Hash&)> known_block;
  // The chain has blocks already: the parent of the lowest one must be known, too.
  bool chain_begun = false;
};

// Every row once, however often the input repeats it.
struct ReadSummary {
  uint64_t blocks = 0;
  uint64_t transactions = 0;
  uint64_t receipts = 0;
  uint64_t traces = 0;  // rewards and grants included
  uint64_t withdrawals = 0;
  uint64_t fork_blocks = 0;    // beyond the first at their height
  uint64_t spilled_bytes = 0;  // written to scratch_dir
};

// Gives out blocks in the order in which their header rows appear in the input, except that none
// comes before its parent. Not thread-safe. Memory: memory_bytes, the rows of one height, and 40
// bytes a block when the order of appearance is not that of the numbers.
class BlockReader {
 public:
  // Reads and checks all of the input: a bad row anywhere is an error here, before any block was
  // given out. Shows progress. Errors: kInvalid for wrong input, naming file, line and field;
  // kNotFound for a path; kExhausted when the scratch disk is full or a height is too large;
  // kUnavailable from the disk.
  static Result<std::unique_ptr<BlockReader>> Open(const ReadOptions& options);
  ~BlockReader();
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;

  const ReadSummary& summary() const;
  // Fills `block` with the next one, whole (part 1 of 1); false behind the last. Reusing one
  // message spares its allocations. Errors: only those of the scratch files.
  Result<bool> Next(chain::v1::BlockObserved* block);

 private:
  struct Impl;
  explicit BlockReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::ingest
