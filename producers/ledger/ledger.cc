#include "producers/ledger/ledger.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "chain/v1/chain.pb.h"
#include "events/registry.h"
#include "events/wire.h"
#include "producers/ledger/postings.h"

namespace leat::ledger {
namespace {

using chain::v1::BlockObserved;
using v1::EntriesPosted;


struct Chain {
  bool has_head = false;
  uint64_t head_number = 0;
  Hash head_hash;
  v1::Completeness completeness = v1::COMPLETENESS_EXACT;
  v1::History history = v1::HISTORY_PARTIAL;
  uint64_t since_block = 0;
  bool has_opening = false;
  // Of the block being posted: the log position of its first event, plus one; 0 between blocks.
  uint64_t pending_from = 0;
  uint64_t pending_postings = 0;
};

struct Block {
  Hash hash;
  uint64_t first = 0;
  uint64_t end = 0;
  v1::Completeness completeness = v1::COMPLETENESS_EXACT;
};

std::string Key(char kind, std::string_view chain) {
  std::string key(1, kind);
  core::AppendString(chain, &key);
  return key;
}
std::string BlockKey(std::string_view chain, uint64_t number) {
  std::string key = Key('k', chain);
  core::AppendBigEndian64(number, &key);
  return key;
}
std::string BalanceKey(std::string_view chain, std::string_view address) {
  std::string key = Key('b', chain);
  key.append(address);
  return key;
}

std::string Pack(const Chain& chain) {
  std::string out;
  out.push_back(static_cast<char>((chain.has_head ? 1 : 0) | (chain.has_opening ? 2 : 0)));
  core::AppendVarint(chain.head_number, &out);
  out.append(chain.head_hash.View());
  core::AppendVarint(static_cast<uint64_t>(chain.completeness), &out);
  core::AppendVarint(static_cast<uint64_t>(chain.history), &out);
  core::AppendVarint(chain.since_block, &out);
  core::AppendVarint(chain.pending_from, &out);
  core::AppendVarint(chain.pending_postings, &out);
  return out;
}

Result<Chain> GetChain(const runtime::State& state, std::string_view name) {
  Chain chain;
  std::string value;
  LEAT_ASSIGN(const bool found, state.Get(Key('c', name), &value));
  if (!found) return chain;
  core::ByteReader reader(value);
  uint8_t flags;
  std::string_view hash;
  uint64_t completeness, history;
  if (!reader.TakeByte(&flags) || !reader.TakeVarint(&chain.head_number) ||
      !reader.TakeBytes(Hash::kSize, &hash) || !reader.TakeVarint(&completeness) ||
      !reader.TakeVarint(&history) || !reader.TakeVarint(&chain.since_block) ||
      !reader.TakeVarint(&chain.pending_from) || !reader.TakeVarint(&chain.pending_postings)) {
    return Fail(ErrorClass::kCorrupt, "the ledger's row of chain " + std::string(name) +
                                          " is damaged");
  }
  chain.has_head = (flags & 1) != 0;
  chain.has_opening = (flags & 2) != 0;
  chain.head_hash = Hash::From(hash);
  chain.completeness = static_cast<v1::Completeness>(completeness);
  chain.history = static_cast<v1::History>(history);
  return chain;
}

Result<std::optional<Block>> GetBlock(const runtime::State& state, std::string_view chain,
                                      uint64_t number) {
  std::string value;
  LEAT_ASSIGN(const bool found, state.Get(BlockKey(chain, number), &value));
  if (!found) return std::nullopt;
  core::ByteReader reader(value);
  Block block;
  std::string_view hash;
  uint64_t completeness;
  if (!reader.TakeBytes(Hash::kSize, &hash) || !reader.TakeVarint(&block.first) ||
      !reader.TakeVarint(&block.end) || !reader.TakeVarint(&completeness)) {
    return Fail(ErrorClass::kCorrupt, "the ledger's row of block " + std::to_string(number) +
                                          " is damaged");
  }
  block.hash = Hash::From(hash);
  block.completeness = static_cast<v1::Completeness>(completeness);
  return block;
}

std::string Pack(const Block& block) {
  std::string out(block.hash.View());
  core::AppendVarint(block.first, &out);
  core::AppendVarint(block.end, &out);
  core::AppendVarint(static_cast<uint64_t>(block.completeness), &out);
  return out;
}

template <typename Message>
Status Parse(const events::EventView& event, Message* message,
             ErrorClass otherwise = ErrorClass::kCorrupt) {
  if (message->ParseFromArray(event.data.data(), static_cast<int>(event.data.size()))) return {};
  return Fail(otherwise, "the data of a " + std::string(event.type) + " event cannot be read");
}

Result<Amount> GetBalance(const runtime::State& state, std::string_view chain,
                          std::string_view address) {
  std::string value;
  LEAT_ASSIGN(const bool found, state.Get(BalanceKey(chain, address), &value));
  Amount balance;
  std::string_view rest = value;
  if (found && !Amount::TakePacked(&rest, &balance)) {
    return Fail(ErrorClass::kCorrupt, "the ledger's balance of " + core::ToHex(address) +
                                          " is damaged");
  }
  return balance;
}

// Follows the balances of a decision's accounts, and tells which fall below zero.
class Overdrafts {
 public:
  Overdrafts(const runtime::State& state, std::string_view chain) : state_(state), chain_(chain) {}

  Status Apply(const EntriesPosted& posting, std::vector<v1::InconsistencyFound>* found) {
    touched_.clear();
    for (const v1::Leg& leg : posting.legs()) {
      if (leg.account_class() != v1::ACCOUNT_CLASS_MIRRORED) continue;
      const Address address = Address::From(leg.address());
      auto at = balances_.find(address);
      if (at == balances_.end()) {
        LEAT_ASSIGN(const Amount balance, GetBalance(state_, chain_, leg.address()));
        at = balances_.emplace(address, balance).first;
      }
      LEAT_ASSIGN(const Amount amount, AmountOf(leg));
      if (amount.IsNegative() && !at->second.IsNegative()) touched_.push_back(address);
      if (!at->second.CheckedAdd(amount)) return Invalid("a balance exceeds 256 bits");
    }
    // Within a posting the order of legs means nothing: only what is left after it counts.
    for (const Address& address : touched_) {
      const Amount& balance = balances_[address];
      if (!balance.IsNegative()) continue;
      v1::InconsistencyFound inconsistency;
      inconsistency.set_chain(std::string(chain_));
      inconsistency.set_block_number(posting.block_number());
      inconsistency.set_address(std::string(address.View()));
      inconsistency.set_transaction_hash(posting.transaction_hash());
      inconsistency.set_missing_wei(balance.Magnitude());
      found->push_back(std::move(inconsistency));
    }
    return {};
  }

 private:
  const runtime::State& state_;
  std::string_view chain_;
  std::unordered_map<Address, Amount> balances_;
  std::vector<Address> touched_;
};

// What postings do not look at, and rows have of a fixed size.
Status Check(const BlockObserved& block) {
  if (block.chain().empty()) return Invalid("a block_observed event names no chain");
  const auto& header = block.header();
  for (const auto& [name, hash] : {std::pair("hash", &header.hash()), std::pair("parent_hash", &header.parent_hash())}) {
    if (hash->size() != Hash::kSize) {
      return Invalid("header." + std::string(name) + " of block " + std::to_string(header.number()) + " has " +
                         std::to_string(hash->size()) + " bytes",
                     std::to_string(Hash::kSize) + " bytes");
    }
  }
  return {};
}

Status DecideBlock(const runtime::State& state, const events::EventView& input,
                   runtime::Decision* decision) {
  BlockObserved block;
  LEAT_TRY(Parse(input, &block, ErrorClass::kInvalid));
  LEAT_TRY(Check(block));
  const auto& header = block.header();
  LEAT_ASSIGN(const Chain chain, GetChain(state, block.chain()));
  const std::string stream = LedgerStream(block.chain());

  const bool first = !chain.has_head;
  const bool linked = first || chain.head_hash.View() == header.parent_hash();
  const v1::History history =
      !first               ? chain.history
      : chain.has_opening  ? v1::HISTORY_SNAPSHOT
      : header.number() == 0 ? v1::HISTORY_GENESIS
                             : v1::HISTORY_PARTIAL;
  const v1::Completeness completeness = std::max(
      first ? v1::COMPLETENESS_EXACT : chain.completeness, CompletenessOf(block, linked));
  const bool exact =
      completeness == v1::COMPLETENESS_EXACT && history == v1::HISTORY_GENESIS;

  LEAT_ASSIGN(auto postings, PostingsOf(block));
  std::vector<v1::InconsistencyFound> inconsistencies;
  Overdrafts overdrafts(state, block.chain());
  for (EntriesPosted& posting : postings) {
    posting.set_exact(exact);
    if (exact) LEAT_TRY(overdrafts.Apply(posting, &inconsistencies));
    decision->Add(stream, events::kEntriesPosted, input.time_us, block.chain(),
                  posting.SerializeAsString());
  }
  for (const auto& inconsistency : inconsistencies) {
    decision->Add(stream, events::kInconsistencyFound, input.time_us, block.chain(),
                  inconsistency.SerializeAsString());
  }
  if (block.part() != block.parts()) return {};

  v1::BlockClosed closed;
  closed.set_chain(block.chain());
  closed.set_block_number(header.number());
  closed.set_block_hash(header.hash());
  closed.set_parent_hash(header.parent_hash());
  closed.set_timestamp_s(header.timestamp_s());
  closed.set_completeness(completeness);
  closed.set_history(history);
  closed.set_since_block(first ? header.number() : chain.since_block);
  closed.set_postings(static_cast<uint32_t>(chain.pending_postings + postings.size()));
  closed.set_miner(header.miner());
  closed.set_transaction_count(block.coverage().transaction_count());
  closed.set_gas_used(header.gas_used());
  closed.set_gas_limit(header.gas_limit());
  closed.set_state_root(header.state_root());
  if (header.has_difficulty()) closed.set_difficulty(header.difficulty());
  closed.set_total_difficulty(header.total_difficulty());
  if (header.has_base_fee_per_gas()) closed.set_base_fee_per_gas(header.base_fee_per_gas());
  closed.set_synthetic(header.synthetic());
  decision->Add(stream, events::kBlockClosed, input.time_us, block.chain(),
                closed.SerializeAsString());
  return {};
}

Status DecideReversal(const runtime::State& state, const eventstore::Log& log,
                      const events::EventView& input, runtime::Decision* decision) {
  chain::v1::BlockReverted reverted;
  LEAT_TRY(Parse(input, &reverted, ErrorClass::kInvalid));
  LEAT_ASSIGN(const Chain chain, GetChain(state, reverted.chain()));
  if (!chain.has_head || chain.head_hash.View() != reverted.hash()) {
    return Invalid("chain " + reverted.chain() + ": block " + std::to_string(reverted.number()) +
                   " is reverted, and it is not the head");
  }
  LEAT_ASSIGN(const auto block, GetBlock(state, reverted.chain(), reverted.number()));
  if (!block) return Fail(ErrorClass::kCorrupt, "the head's row is not there");
  const std::string stream = LedgerStream(reverted.chain());
  auto cursor = log.Read(block->end);
  eventstore::LogEvent stored;
  while (cursor.position() > block->first) {
    LEAT_ASSIGN(const bool found, cursor.Previous(&stored));
    if (!found || stored.purged) {
      return Fail(ErrorClass::kCorrupt, "a posting to reverse is not in the log");
    }
    LEAT_ASSIGN(const auto event, stored.Decode());
    if (event.type != events::kEntriesPosted) continue;
    EntriesPosted posting;
    LEAT_TRY(Parse(event, &posting));
    decision->Add(stream, events::kEntriesPosted, input.time_us, reverted.chain(),
                  Reversed(posting, stored.version).SerializeAsString());
  }
  v1::BlockReopened reopened;
  reopened.set_chain(reverted.chain());
  reopened.set_block_number(reverted.number());
  reopened.set_block_hash(reverted.hash());
  reopened.set_parent_hash(reverted.parent_hash());
  decision->Add(stream, events::kBlockReopened, input.time_us, reverted.chain(),
                reopened.SerializeAsString());
  return {};
}

Status ApplyLegs(runtime::State* state, const EntriesPosted& posting) {
  std::string packed;
  for (const v1::Leg& leg : posting.legs()) {
    if (leg.account_class() != v1::ACCOUNT_CLASS_MIRRORED) continue;
    LEAT_ASSIGN(Amount balance, GetBalance(*state, posting.chain(), leg.address()));
    LEAT_ASSIGN(const Amount amount, AmountOf(leg));
    if (!balance.CheckedAdd(amount)) return Invalid("a balance exceeds 256 bits");
    packed.clear();
    balance.AppendPacked(&packed);
    state->Put(BalanceKey(posting.chain(), leg.address()), packed);
  }
  return {};
}

// Legs are parsed only where they are followed: a posting of a chain that is not exact costs a glance.
Status EvolvePosting(runtime::State* state, const events::EventView& event, uint64_t position) {
  std::string_view name;
  bool reverses = false, exact = false;
  core::ByteReader reader(event.data);
  events::WireField field;
  while (!reader.Empty()) {
    if (!events::TakeField(&reader, &field)) {
      return Fail(ErrorClass::kCorrupt, "an entries_posted event cannot be read");
    }
    if (field.field == EntriesPosted::kChainFieldNumber) name = field.bytes;
    if (field.field == EntriesPosted::kReversesVersionFieldNumber) reverses = true;
    if (field.field == EntriesPosted::kExactFieldNumber) exact = field.number != 0;
  }
  LEAT_ASSIGN(Chain chain, GetChain(*state, name));
  // Opening balances come before the first block, and nothing else does without being exact or part of it.
  bool opening = false;
  if (exact || !chain.has_head) {
    EntriesPosted posting;
    LEAT_TRY(Parse(event, &posting));
    if (exact) LEAT_TRY(ApplyLegs(state, posting));
    opening = posting.legs_size() > 0 && posting.legs(0).kind() == v1::LEG_OPENING;
  }
  if (reverses) return {};
  if (opening) {
    chain.has_opening = true;
  } else {
    if (chain.pending_from == 0) chain.pending_from = position + 1;
    ++chain.pending_postings;
  }
  state->Put(Key('c', name), Pack(chain));
  return {};
}

Status DecideOpening(const events::EventView& input, runtime::Decision* decision) {
  chain::v1::OpeningObserved opening;
  LEAT_TRY(Parse(input, &opening, ErrorClass::kInvalid));
  if (opening.chain().empty()) return Invalid("an opening_observed event names no chain");
  LEAT_ASSIGN(const auto postings, PostingsOf(opening));
  for (const EntriesPosted& posting : postings) {
    decision->Add(LedgerStream(opening.chain()), events::kEntriesPosted, input.time_us,
                  opening.chain(), posting.SerializeAsString());
  }
  return {};
}

// (part, parts) of a block_observed event.
std::pair<uint64_t, uint64_t> PartOf(const events::EventView& input) {
  // They stand behind the transactions; whose lengths are skipped, not parsed.
  core::ByteReader reader(input.data);
  events::WireField field;
  uint64_t part = 1, parts = 1;
  while (!reader.Empty() && events::TakeField(&reader, &field)) {
    if (field.field == BlockObserved::kPartFieldNumber) part = field.number;
    if (field.field == BlockObserved::kPartsFieldNumber) parts = field.number;
  }
  return {part, parts};
}

}  // namespace

std::string LedgerStream(std::string_view chain) { return "ledger-" + std::string(chain); }

bool Ledger::Begins(const events::EventView& input) const {
  return input.type != events::kBlockObserved || PartOf(input).first <= 1;
}

bool Ledger::Continues(const events::EventView& input) const {
  if (input.type != events::kBlockObserved) return false;
  const auto [part, parts] = PartOf(input);
  return part < parts;
}

bool Ledger::Continued(const events::EventView& previous, const events::EventView& next) const {
  BlockObserved before, after;
  return next.type == events::kBlockObserved &&
         before.ParseFromArray(previous.data.data(), static_cast<int>(previous.data.size())) &&
         after.ParseFromArray(next.data.data(), static_cast<int>(next.data.size())) &&
         after.header().hash() == before.header().hash() && after.part() == before.part() + 1;
}

bool Ledger::NeedsLog(const events::EventView& input) const {
  return input.type == events::kBlockReverted;
}

Status Ledger::Decide(const runtime::State& state, const eventstore::Log& log,
                      const events::EventView& input, runtime::Decision* decision) {
  if (input.type == events::kBlockObserved) return DecideBlock(state, input, decision);
  if (input.type == events::kBlockReverted) return DecideReversal(state, log, input, decision);
  if (input.type == events::kOpeningObserved) return DecideOpening(input, decision);
  if (input.type == events::kBlockSidelined) return {};
  return Fail(ErrorClass::kUnsupported, "the ledger does not know type " + std::string(input.type));
}

Status Ledger::Evolve(runtime::State* state, const events::EventView& event, uint64_t position) {
  if (event.type == events::kEntriesPosted) return EvolvePosting(state, event, position);
  if (event.type == events::kBlockClosed) {
    v1::BlockClosed closed;
    LEAT_TRY(Parse(event, &closed));
    LEAT_ASSIGN(Chain chain, GetChain(*state, closed.chain()));
    Block block;
    block.hash = Hash::From(closed.block_hash());
    block.first = chain.pending_from == 0 ? position : chain.pending_from - 1;
    block.end = position + 1;
    block.completeness = closed.completeness();
    state->Put(BlockKey(closed.chain(), closed.block_number()), Pack(block));
    chain.has_head = true;
    chain.head_number = closed.block_number();
    chain.head_hash = block.hash;
    chain.completeness = closed.completeness();
    chain.history = closed.history();
    chain.since_block = closed.since_block();
    chain.pending_from = 0;
    chain.pending_postings = 0;
    state->Put(Key('c', closed.chain()), Pack(chain));
    return {};
  }
  if (event.type == events::kBlockReopened) {
    v1::BlockReopened reopened;
    LEAT_TRY(Parse(event, &reopened));
    LEAT_ASSIGN(Chain chain, GetChain(*state, reopened.chain()));
    state->Delete(BlockKey(reopened.chain(), reopened.block_number()));
    std::optional<Block> parent;
    if (reopened.block_number() > 0) {
      LEAT_ASSIGN(parent, GetBlock(*state, reopened.chain(), reopened.block_number() - 1));
    }
    chain.has_head = parent.has_value();
    if (parent) {
      chain.head_number = reopened.block_number() - 1;
      chain.head_hash = parent->hash;
      chain.completeness = parent->completeness;
    }
    state->Put(Key('c', reopened.chain()), Pack(chain));
    return {};
  }
  return {};
}

}  // namespace leat::ledger
