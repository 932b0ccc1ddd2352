// The ledger: mirrors an observed chain in double entry. Reads chain.blocks, decides ledger.entries.
#pragma once

#include <string>
#include <string_view>

#include "runtime/decider.h"

namespace leat::ledger {

inline constexpr std::string_view kLedgerEntriesTopic = "ledger.entries";

// The stream of a chain's postings: "ledger-<chain>".
std::string LedgerStream(std::string_view chain);

// Rows:
//   c <chain>           -> head, completeness and history so far, and where the block being posted begins in the log
//   k <chain> <number>  -> hash, its events' range in the log, completeness of the chain after it
//   b <chain> <address> -> balance, followed while the chain is exact from genesis
class Ledger final : public runtime::Decider {
 public:
  // A block in parts is decided in one commit.
  bool Begins(const events::EventView& input) const override;
  bool Continues(const events::EventView& input) const override;
  bool Continued(const events::EventView& previous, const events::EventView& next) const override;
  // A reversal reads the postings it reverses.
  bool NeedsLog(const events::EventView& input) const override;
  Status Decide(const runtime::State& state, const eventstore::Log& log,
                const events::EventView& input, runtime::Decision* decision) override;
  Status Evolve(runtime::State* state, const events::EventView& event,
                uint64_t position) override;
};

}  // namespace leat::ledger
