// Questions to the balances projection. Every answer is as of one commit: a View of its runner.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "consumers/balances/balances.h"
#include "core/amount.h"
#include "core/bytes.h"
#include "core/result.h"
#include "runtime/projection_runner.h"

namespace leat::balances {

// Which past is asked for; nothing set: now.
struct Selector {
  // After this block on the chain that is canonical at the answer's `as_of` (between two blocks of an excerpt: the lower).
  std::optional<uint64_t> at_block;
  // After the block with this hash: kConflict when it fell off the canonical chain.
  std::optional<Hash> at_block_hash;
  // As it was known when the ledger's log held the events below this position.
  std::optional<uint64_t> known_below;
  // After the newest canonical block that is not later than this.
  std::optional<int64_t> at_time_us;
};

// The moment an answer speaks of.
struct Moment {
  uint32_t chain_number = 0;
  uint64_t below = 0;           // entries below this position count
  std::optional<BlockRow> block;  // the newest one that counts; none before the first
};

struct Balance {
  Amount amount;
  std::optional<uint64_t> inconsistent_since;  // position where the account was found below zero
};

struct StatementEntry {
  uint64_t position = 0;
  uint32_t leg = 0;
  Amount amount;
  Amount balance;
  ledger::v1::LegKind kind{};
  uint64_t block_number = 0;
  std::optional<Hash> transaction_hash;
};

struct Supply {
  Amount total;
  Amount issued;
  Amount burnt;
  Amount opening;
};

// Cheap to make, for one view; not thread-safe. The view must outlive it.
class Queries {
 public:
  explicit Queries(const runtime::View& view)
      : view_(view), summary_(*static_cast<const Summary*>(view.summary.get())) {}

  const Summary& summary() const { return summary_; }
  // Errors: kNotFound (no such chain, block beyond the head, time before the first block), kConflict (block not canonical).
  Result<Moment> Resolve(std::string_view chain, const Selector& selector) const;
  // Zero for an account that was never heard of.
  Result<Balance> BalanceOf(const Moment& moment, const AccountKey& account,
                            bool newest = false) const;
  // Newest first, from below (position, leg) on, where given.
  Result<std::vector<StatementEntry>> Statement(
      const Moment& moment, const AccountKey& account,
      std::optional<std::pair<uint64_t, uint32_t>> below, size_t count_max) const;
  // Every mirrored account that has an entry, by address, zero balances too. Stops when `visit` returns false.
  Status ForEachBalance(const Moment& moment,
                        const std::function<bool(const Address&, const Amount&)>& visit) const;
  // The same, from after `after` on, at most `count_max` accounts are looked at: for streamed answers. True: there is more.
  Result<bool> NextBalances(const Moment& moment, std::optional<Address>* after, size_t count_max,
                            const std::function<void(const Address&, const Amount&)>& visit) const;
  Result<std::vector<std::pair<Address, Amount>>> Richest(const Moment& moment,
                                                          size_t count_max) const;
  Result<Supply> SupplyAt(const Moment& moment) const;
  // Canonical blocks, newest first, numbers below `below`.
  Result<std::vector<BlockRow>> Blocks(std::string_view chain, std::optional<uint64_t> below,
                                       size_t count_max) const;
  // A block by hash, canonical or not.
  Result<BlockRow> BlockByHash(std::string_view chain, const Hash& hash) const;
  // The ledger position after everything that was decided from inputs up to this one; nothing when none was.
  Result<std::optional<uint64_t>> AfterCause(std::string_view topic, uint32_t partition,
                                             uint64_t offset) const;

 private:
  Result<const Summary::Chain*> FindChain(std::string_view name) const;
  Result<HeadRow> HeadAt(uint32_t chain, uint64_t below) const;
  // The closing of the highest block <= number that was canonical below a position.
  Result<std::optional<BlockRow>> CanonicalAt(uint32_t chain, uint64_t number, uint64_t below,
                                              uint64_t* closed_at) const;

  const runtime::View& view_;
  const Summary& summary_;
};

// The Merkle Patricia root of a state of plain accounts: nonce 0, no code, no storage (Yellow Paper, appendix D).
// Addresses must be distinct; any order.
Hash PlainStateRoot(const std::vector<std::pair<Address, Amount>>& balances);

}  // namespace leat::balances
