// The ingest service: takes assembled blocks, chooses between forks, and announces the canonical chain on chain.blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/amount.h"
#include "core/bytes.h"
#include "core/result.h"
#include "runtime/decider.h"
#include "runtime/shard.h"

namespace leat::chain::v1 {
class BlockObserved;
}

namespace leat::ingest {

inline constexpr std::string_view kChainBlocksTopic = "chain.blocks";
inline constexpr size_t kPartBytesMax = 1u << 20;  // a larger block is announced in parts

// What became of submitted blocks.
struct FeedReport {
  uint64_t observed = 0;   // announced, those of a branch that won included
  uint64_t reverted = 0;
  uint64_t sidelined = 0;  // of branches that have not won
  uint64_t known = 0;      // seen before: nothing was done

  FeedReport& operator+=(const FeedReport& other);
};

// Which block is the head of each chain, and which other blocks are known. Rows:
//   h <chain>         -> head
//   n <chain> <hash>  -> node: number, parent, total difficulty, canonical, where its content lies in the log
//   o <chain>         -> digest of its opening balances
class ChainDecider final : public runtime::Evolver {
 public:
  // The rules: a block whose parent is the head extends it. Otherwise its parent must be known; before the merge the
  // branch wins when its total difficulty is higher than the head's (equal: first seen stays), after it always, being
  // the newest. Nothing when the block is known. Errors: kInvalid (parent not known, wrong number, no difficulty to
  // compare by), kConflict (an excerpt and a segment on one chain).
  Status Decide(const runtime::State& state, const eventstore::Log& log,
                const chain::v1::BlockObserved& block, runtime::Decision* decision,
                FeedReport* report) const;
  // Whether deciding reads the log, so that what was staged before must be committed first.
  static Result<bool> NeedsLog(const runtime::State& state,
                               const chain::v1::BlockObserved& block);
  static Result<bool> Knows(const runtime::State& state, std::string_view chain, const Hash& hash);

  Status Evolve(runtime::State* state, const events::EventView& event,
                uint64_t position) override;
};

// Thread-safe: submissions are taken one at a time.
class ChainFeed {
 public:
  // Nobody else may write the shard meanwhile.
  explicit ChainFeed(std::shared_ptr<runtime::Shard> shard) : shard_(std::move(shard)) {}

  // Decides on each block in order and returns once all is on the disk. Blocks before a bad one are taken.
  Result<FeedReport> Submit(const std::vector<chain::v1::BlockObserved>& blocks);
  // Balances before the first block; the same ones again are fine. Errors: kConflict when the chain has begun without them.
  Status SubmitOpening(std::string_view chain,
                       const std::vector<std::pair<Address, Amount>>& balances);
  Result<bool> Knows(std::string_view chain, const Hash& hash);
 private:
  const std::shared_ptr<runtime::Shard> shard_;
  std::mutex mutex_;
  ChainDecider decider_;
};

// "namespace:reference" as CAIP-2 has it. Errors: kInvalid.
Status CheckChainId(std::string_view chain);
// The stream of a chain's blocks: "chain-<id>".
std::string ChainStream(std::string_view chain);

}  // namespace leat::ingest
