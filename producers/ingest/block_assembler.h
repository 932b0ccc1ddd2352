// Puts the rows of one height together to whole blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/bytes.h"
#include "core/result.h"

namespace leat::chain::v1 {
class BlockObserved;
}

namespace leat::ingest {

inline constexpr size_t kBlocksPerHeightMax = 1024;

// Not thread-safe. Heights must come in rising order, each with all of its records (rows.h) in the
// order of their appearance.
class BlockAssembler {
 public:
  struct Options {
    std::string chain;
    bool excerpt = false;
    bool transactions_given = false;               // the input holds transaction rows
    bool withdrawals_given = false;                // the input holds withdrawal rows
    std::vector<std::string> files;                // Place::file() counts in them
    std::function<Result<bool>(const Hash&)> known_block;  // may be empty
    bool chain_begun = false;                      // there are blocks before the first height
  };
  // Of what has been assembled so far, each row once.
  struct Counts {
    uint64_t blocks = 0;
    uint64_t transactions = 0;
    uint64_t receipts = 0;
    uint64_t traces = 0;
    uint64_t withdrawals = 0;
    uint64_t fork_blocks = 0;
  };
  // When a block may be given out: not before its parent.
  struct Turn {
    uint64_t arrival = 0;
    uint64_t number = 0;
    uint64_t appearance = 0;
    auto operator<=>(const Turn&) const = default;
  };

  explicit BlockAssembler(Options options);
  ~BlockAssembler();
  BlockAssembler(const BlockAssembler&) = delete;
  BlockAssembler& operator=(const BlockAssembler&) = delete;

  // Groups and checks; all errors come from here (kInvalid, naming file and line). The records must
  // stay where they are until the next call.
  Status Assemble(uint64_t number, std::span<const std::string_view> records);

  // The blocks of this height, in the order of their turns.
  size_t size() const;
  Turn turn(size_t i) const;
  // Fills all of `block`, as one part.
  void Build(size_t i, chain::v1::BlockObserved* block) const;

  const Counts& counts() const { return counts_; }

 private:
  struct Impl;
  Counts counts_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::ingest
