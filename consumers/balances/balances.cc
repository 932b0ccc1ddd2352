#include "consumers/balances/balances.h"

#include "events/registry.h"

namespace leat::balances {
namespace {

template <typename Message>
Status Parse(const events::EventView& event, Message* message) {
  if (message->ParseFromArray(event.data.data(), static_cast<int>(event.data.size()))) return {};
  return Invalid("the data of a " + std::string(event.type) + " event cannot be read");
}

// The closed block of a number that is canonical now; reads what was staged, too.
Status FindBlock(const runtime::State& state, const ChainRow& chain, uint64_t number,
                 uint64_t closed_at, BlockRow* row) {
  std::string value;
  LEAT_ASSIGN(const bool found, state.Get(BlockKey(chain.number, number, closed_at), &value));
  if (!found) return Fail(ErrorClass::kCorrupt, "a block's row is not there");
  return Unpack(value, row);
}

}  // namespace

Status Balances::Load(const runtime::State& state) {
  chains_.clear();
  changed_ = true;
  const auto rows = state.Iterate({});
  for (rows->Seek("c"); rows->Valid() && rows->key().starts_with("c"); rows->Next()) {
    Summary::Chain chain;
    LEAT_TRY(Unpack(rows->value(), &chain.row));
    if (chain.row.has_head) {
      auto head = std::make_shared<BlockRow>();
      LEAT_TRY(FindBlock(state, chain.row, chain.row.head_number, chain.row.head_closed_at,
                         head.get()));
      chain.head = std::move(head);
    }
    chains_.emplace(rows->key().substr(1), std::move(chain));
  }
  return rows->status();
}

std::shared_ptr<const void> Balances::Summary() {
  if (changed_) {
    auto summary = std::make_shared<struct Summary>();
    summary->chains = chains_;
    summary_ = std::move(summary);
    changed_ = false;
  }
  return summary_;
}

Balances::Chains::iterator Balances::FindChain(runtime::State* state, std::string_view name) {
  auto found = chains_.find(name);
  if (found == chains_.end()) {
    Summary::Chain chain;
    chain.row.number = static_cast<uint32_t>(chains_.size() + 1);
    // In the commit of the first row whose key has the number: no other chain may get it after a restart.
    state->Put(ChainKey(name), Pack(chain.row));
    found = chains_.emplace(std::string(name), chain).first;
    changed_ = true;
  }
  return found;
}

Status Balances::Evolve(runtime::State* state, const events::EventView& event, uint64_t offset) {
  bool known = true;
  if (event.type == events::kEntriesPosted) {
    LEAT_TRY(Post(state, event, offset));
  } else if (event.type == events::kBlockClosed) {
    LEAT_TRY(Close(state, event, offset));
  } else if (event.type == events::kBlockReopened) {
    LEAT_TRY(Reopen(state, event, offset));
  } else if (event.type == events::kInconsistencyFound) {
    ledger::v1::InconsistencyFound found;
    LEAT_TRY(Parse(event, &found));
    if (found.address().size() != Address::kSize) {
      return Invalid("an inconsistency_found event names no address");
    }
    const std::string key =
        AccountRowKey(FindChain(state, found.chain())->second.row.number,
                      AccountKey::Mirrored(Address::From(found.address())));
    AccountRow account;
    LEAT_ASSIGN(const bool found_row, state->Get(key, &value_));
    if (found_row) LEAT_TRY(Unpack(value_, &account));
    if (account.inconsistent_at == 0) account.inconsistent_at = offset + 1;
    state->Put(key, Pack(account));
  } else {
    known = false;
  }
  if (event.cause && event.cause->n == event.cause->m) {
    const events::Cause& cause = *event.cause;
    state->PutUncached(CauseKey(cause.topic, cause.partition, cause.offset), PackNumber(offset));
  }
  if (known) return {};
  return Fail(ErrorClass::kUnsupported, "balances do not know type " + std::string(event.type));
}

Status Balances::Post(runtime::State* state, const events::EventView& event, uint64_t position) {
  LEAT_TRY(Parse(event, &posting_));
  const auto chain = FindChain(state, posting_.chain());
  const uint32_t number = chain->second.row.number;
  EntryRow entry;
  entry.block_number = posting_.block_number();
  AccountRow account;
  for (int i = 0; i < posting_.legs_size(); ++i) {
    const ledger::v1::Leg& leg = posting_.legs(i);
    if (leg.account_class() != ledger::v1::ACCOUNT_CLASS_SYSTEM &&
        leg.address().size() != Address::kSize) {
      return Invalid("a leg has an address of " + std::to_string(leg.address().size()) + " bytes");
    }
    const AccountKey account_key = AccountKey::Of(leg);
    const std::string row_key = AccountRowKey(number, account_key);
    LEAT_ASSIGN(entry.amount, Amount::FromBytes(leg.magnitude(), leg.negative()));
    LEAT_ASSIGN(const bool known, state->Get(row_key, &value_));
    account = {};
    if (known) LEAT_TRY(Unpack(value_, &account));
    if (!account.balance.CheckedAdd(entry.amount)) return Invalid("a balance exceeds 256 bits");
    account.position = position;
    state->Put(row_key, Pack(account));
    entry.balance = account.balance;
    entry.kind = leg.kind();
    value_.clear();
    PackTo(entry, &value_);
    state->PutUncached(EntryKey(number, account_key, position, static_cast<uint32_t>(i)), value_);
  }
  if (!posting_.transaction_hash().empty()) {
    state->PutUncached(TransactionKey(position), posting_.transaction_hash());
  }
  return {};
}

Status Balances::Close(runtime::State* state, const events::EventView& event, uint64_t position) {
  auto block = std::make_shared<BlockRow>();
  LEAT_TRY(Parse(event, &block->closed));
  if (block->closed.block_hash().size() != Hash::kSize) {
    return Invalid("a block_closed event has a hash of " +
                   std::to_string(block->closed.block_hash().size()) + " bytes");
  }
  auto& [name, chain] = *FindChain(state, block->closed.chain());
  const uint64_t number = block->closed.block_number();
  if (chain.row.head_closed_at == 0 && !chain.row.has_head) chain.row.first_number = number;
  chain.row.has_head = true;
  chain.row.head_number = number;
  chain.row.head_closed_at = position;
  state->Put(BlockKey(chain.row.number, number, position), Pack(*block));
  state->Put(CanonicalKey(chain.row.number, number), PackNumber(position));
  state->Put(BlockHashKey(chain.row.number, block->closed.block_hash()), PackNumber(number));
  state->PutUncached(HeadKey(chain.row.number, position), Pack(HeadRow{true, number, position}));
  state->Put(ChainKey(name), Pack(chain.row));
  chain.head = std::move(block);
  changed_ = true;
  return {};
}

Status Balances::Reopen(runtime::State* state, const events::EventView& event,
                        uint64_t position) {
  ledger::v1::BlockReopened reopened;
  LEAT_TRY(Parse(event, &reopened));
  auto& [name, chain] = *FindChain(state, reopened.chain());
  if (!chain.row.has_head || chain.row.head_number != reopened.block_number()) {
    return Invalid("a block is reopened that is not the head");
  }
  BlockRow block = *chain.head;
  block.reopened_at = position + 1;
  state->Put(BlockKey(chain.row.number, chain.row.head_number, chain.row.head_closed_at),
             Pack(block));
  state->Delete(CanonicalKey(chain.row.number, chain.row.head_number));
  chain.row.has_head = false;
  chain.head = nullptr;
  std::string value;
  const uint64_t number = reopened.block_number() - 1;
  bool found = false;
  if (reopened.block_number() > 0) {
    LEAT_ASSIGN(found, state->Get(CanonicalKey(chain.row.number, number), &value));
  }
  if (found) {
    uint64_t closed_at = 0;
    LEAT_TRY(UnpackNumber(value, &closed_at));
    auto parent = std::make_shared<BlockRow>();
    LEAT_TRY(FindBlock(*state, chain.row, number, closed_at, parent.get()));
    chain.row.has_head = true;
    chain.row.head_number = number;
    chain.row.head_closed_at = closed_at;
    chain.head = std::move(parent);
  }
  state->PutUncached(HeadKey(chain.row.number, position),
                     Pack(HeadRow{chain.row.has_head, chain.row.head_number,
                                  chain.row.head_closed_at}));
  state->Put(ChainKey(name), Pack(chain.row));
  changed_ = true;
  return {};
}

}  // namespace leat::balances
