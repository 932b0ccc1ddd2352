// The balances projection: reads ledger.entries, keeps every account's balance now and at every past position.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "consumers/balances/rows.h"
#include "runtime/decider.h"

namespace leat::balances {

// What a query needs at hand: the chains and their heads as of a commit. Immutable.
struct Summary {
  struct Chain {
    ChainRow row;
    std::shared_ptr<const BlockRow> head;  // null without a head
  };
  std::map<std::string, Chain, std::less<>> chains;
};

class Balances final : public runtime::Projection {
 public:
  Status Evolve(runtime::State* state, const events::EventView& event, uint64_t offset) override;
  std::shared_ptr<const void> Summary() override;
  Status Load(const runtime::State& state) override;

 private:
  using Chains = std::map<std::string, Summary::Chain, std::less<>>;
  // A new chain gets its number and its row.
  Chains::iterator FindChain(runtime::State* state, std::string_view name);
  Status Post(runtime::State* state, const events::EventView& event, uint64_t position);
  Status Close(runtime::State* state, const events::EventView& event, uint64_t position);
  Status Reopen(runtime::State* state, const events::EventView& event, uint64_t position);

  Chains chains_;
  // Reused from event to event.
  ledger::v1::EntriesPosted posting_;
  std::string key_, value_;
  std::shared_ptr<const struct Summary> summary_;
  bool changed_ = true;
};

}  // namespace leat::balances
