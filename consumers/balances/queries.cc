#include "consumers/balances/queries.h"

#include <algorithm>

namespace leat::balances {
namespace {

std::string Text(uint64_t number) { return std::to_string(number); }

}  // namespace

Result<const Summary::Chain*> Queries::FindChain(std::string_view name) const {
  const auto found = summary_.chains.find(name);
  if (found == summary_.chains.end()) {
    std::string known;
    for (const auto& [chain, row] : summary_.chains) known += (known.empty() ? "" : ", ") + chain;
    return Fail(ErrorClass::kNotFound, "nothing is known of chain " + std::string(name),
                known.empty() ? "ingest its blocks first" : "known are " + known);
  }
  return &found->second;
}

Result<HeadRow> Queries::HeadAt(uint32_t chain, uint64_t below) const {
  HeadRow head;
  if (below == 0) return head;
  const auto rows = view_.Iterate();
  rows->SeekForPrev(HeadKey(chain, below - 1));
  if (rows->Valid() && rows->key().starts_with(HeadPrefix(chain))) {
    LEAT_TRY(Unpack(rows->value(), &head));
  }
  LEAT_TRY(rows->status());
  return head;
}

Result<std::optional<BlockRow>> Queries::CanonicalAt(uint32_t chain, uint64_t number,
                                                     uint64_t below, uint64_t* closed_at) const {
  const auto rows = view_.Iterate();
  const std::string prefix = BlockPrefix(chain);
  rows->SeekForPrev(BlockKey(chain, number, UINT64_MAX));
  for (; rows->Valid() && rows->key().starts_with(prefix); rows->Prev()) {
    const std::string_view key = rows->key();
    const uint64_t position = core::LoadBigEndian64(key.data() + key.size() - 8);
    if (position >= below) continue;
    BlockRow row;
    LEAT_TRY(Unpack(rows->value(), &row));
    if (row.reopened_at != 0 && row.reopened_at <= below) continue;
    *closed_at = position;
    return row;
  }
  LEAT_TRY(rows->status());
  return std::nullopt;
}

Result<Moment> Queries::Resolve(std::string_view chain_name, const Selector& selector) const {
  LEAT_ASSIGN(const Summary::Chain* chain, FindChain(chain_name));
  Moment moment;
  moment.chain_number = chain->row.number;
  const uint64_t known_below = std::min(selector.known_below.value_or(view_.input.next),
                                        view_.input.next);
  const bool now = known_below == view_.input.next;
  HeadRow head{chain->row.has_head, chain->row.head_number, chain->row.head_closed_at};
  if (!now) {
    LEAT_ASSIGN(head, HeadAt(moment.chain_number, known_below));
  }
  const bool by_block = selector.at_block || selector.at_block_hash || selector.at_time_us;
  if (!by_block) {
    moment.below = known_below;
    if (now && chain->head != nullptr) {
      moment.block = *chain->head;
    } else if (head.has_head) {
      uint64_t closed_at = 0;
      LEAT_ASSIGN(moment.block,
                  CanonicalAt(moment.chain_number, head.number, known_below, &closed_at));
    }
    return moment;
  }
  if (!head.has_head) {
    return Fail(ErrorClass::kNotFound, "chain " + std::string(chain_name) + " has no block yet");
  }

  uint64_t number = head.number;
  if (selector.at_block_hash) {
    LEAT_ASSIGN(const BlockRow row, BlockByHash(chain_name, *selector.at_block_hash));
    number = row.closed.block_number();
  } else if (selector.at_block) {
    number = *selector.at_block;
  }
  if (number > head.number) {
    return Fail(ErrorClass::kNotFound,
                "block " + Text(number) + " is beyond the head, " + Text(head.number),
                "ask for a block up to the head");
  }
  uint64_t closed_at = 0;
  if (selector.at_time_us) {
    // Block times grow with their numbers on a canonical chain, so this is a binary search by number.
    uint64_t low = chain->row.first_number;
    uint64_t high = head.number;
    std::optional<BlockRow> best;
    uint64_t best_closed_at = 0;
    while (low <= high) {
      const uint64_t middle = low + (high - low) / 2;
      LEAT_ASSIGN(auto row, CanonicalAt(moment.chain_number, middle, known_below, &closed_at));
      const bool fits = row && static_cast<int64_t>(row->closed.timestamp_s()) * 1'000'000 <=
                                   *selector.at_time_us;
      if (!row || fits) {
        if (fits) {
          best = std::move(row);
          best_closed_at = closed_at;
        }
        low = middle + 1;
      } else {
        if (row->closed.block_number() == 0) break;
        high = std::min(middle, row->closed.block_number()) - 1;
      }
    }
    if (!best) {
      return Fail(ErrorClass::kNotFound, "the time is before the first block",
                  "chain " + std::string(chain_name) + " begins with block " +
                      Text(chain->row.first_number));
    }
    moment.block = std::move(best);
    closed_at = best_closed_at;
  } else {
    LEAT_ASSIGN(moment.block, CanonicalAt(moment.chain_number, number, known_below, &closed_at));
    if (!moment.block) {
      return Fail(ErrorClass::kNotFound,
                  "block " + Text(number) + " is before the first one known, " +
                      Text(chain->row.first_number));
    }
    if (selector.at_block_hash &&
        moment.block->closed.block_hash() != selector.at_block_hash->View()) {
      return Fail(ErrorClass::kConflict,
                  "block " + selector.at_block_hash->Hex() + " is not canonical",
                  "the canonical block " + Text(number) + " is " +
                      core::ToHex(moment.block->closed.block_hash()));
    }
  }
  moment.below = closed_at + 1;
  return moment;
}

Result<Balance> Queries::BalanceOf(const Moment& moment, const AccountKey& account,
                                   bool newest) const {
  Balance out;
  std::string value;
  LEAT_ASSIGN(const bool known,
              view_.Get(AccountRowKey(moment.chain_number, account), &value));
  if (!known) return out;
  AccountRow row;
  LEAT_TRY(Unpack(value, &row));
  if (newest || row.position < moment.below) {
    out.amount = row.balance;
  } else if (moment.below > 0) {
    // The running balance of the last entry that counts: one seek.
    const auto rows = view_.Iterate();
    rows->SeekForPrev(EntryKey(moment.chain_number, account, moment.below - 1, UINT32_MAX));
    if (rows->Valid() && rows->key().starts_with(EntryPrefix(moment.chain_number, account))) {
      EntryRow entry;
      LEAT_TRY(Unpack(rows->value(), &entry));
      out.amount = entry.balance;
    }
    LEAT_TRY(rows->status());
  }
  if (row.inconsistent_at != 0 && row.inconsistent_at <= moment.below) {
    out.inconsistent_since = row.inconsistent_at - 1;
  }
  return out;
}

Result<std::vector<StatementEntry>> Queries::Statement(
    const Moment& moment, const AccountKey& account,
    std::optional<std::pair<uint64_t, uint32_t>> below, size_t count_max) const {
  std::vector<StatementEntry> out;
  if (moment.below == 0) return out;
  const std::string prefix = EntryPrefix(moment.chain_number, account);
  const auto rows = view_.Iterate();
  rows->SeekForPrev(EntryKey(moment.chain_number, account, moment.below - 1, UINT32_MAX));
  if (below && below->first < moment.below) {
    const std::string bound =
        EntryKey(moment.chain_number, account, below->first, below->second);
    rows->SeekForPrev(bound);
    if (rows->Valid() && rows->key() == bound) rows->Prev();
  }
  for (; rows->Valid() && rows->key().starts_with(prefix) && out.size() < count_max;
       rows->Prev()) {
    const std::string_view key = rows->key();
    EntryRow row;
    LEAT_TRY(Unpack(rows->value(), &row));
    StatementEntry entry;
    entry.position = core::LoadBigEndian64(key.data() + prefix.size());
    entry.leg = core::LoadBigEndian32(key.data() + prefix.size() + 8);
    entry.amount = row.amount;
    entry.balance = row.balance;
    entry.kind = row.kind;
    entry.block_number = row.block_number;
    std::string hash;
    LEAT_ASSIGN(const bool has_hash, view_.Get(TransactionKey(entry.position), &hash));
    if (has_hash && hash.size() == Hash::kSize) entry.transaction_hash = Hash::From(hash);
    out.push_back(std::move(entry));
  }
  LEAT_TRY(rows->status());
  return out;
}

Result<bool> Queries::NextBalances(
    const Moment& moment, std::optional<Address>* after, size_t count_max,
    const std::function<void(const Address&, const Amount&)>& visit) const {
  const std::string prefix = AccountPrefix(moment.chain_number) + 'm';
  const auto rows = view_.Iterate(eventstore::PrefixEnd(prefix), true);
  const auto entries = view_.Iterate();
  size_t count = 0;
  rows->Seek(*after ? prefix + std::string((*after)->View()) + '\0' : prefix);
  for (; rows->Valid(); rows->Next()) {
    if (count++ == count_max) return true;
    const Address address = Address::From(rows->key().substr(prefix.size()));
    *after = address;
    AccountRow row;
    LEAT_TRY(Unpack(rows->value(), &row));
    if (row.position < moment.below) {
      visit(address, row.balance);
      continue;
    }
    if (moment.below == 0) continue;
    const AccountKey account = AccountKey::Mirrored(address);
    entries->SeekForPrev(EntryKey(moment.chain_number, account, moment.below - 1, UINT32_MAX));
    if (entries->Valid() &&
        entries->key().starts_with(EntryPrefix(moment.chain_number, account))) {
      EntryRow entry;
      LEAT_TRY(Unpack(entries->value(), &entry));
      visit(address, entry.balance);
    }
    LEAT_TRY(entries->status());
  }
  LEAT_TRY(rows->status());
  return false;
}

Status Queries::ForEachBalance(
    const Moment& moment,
    const std::function<bool(const Address&, const Amount&)>& visit) const {
  std::optional<Address> after;
  bool wanted = true;
  constexpr size_t kStep = 65'536;
  for (;;) {
    LEAT_ASSIGN(const bool more,
                NextBalances(moment, &after, kStep, [&](const Address& address, const Amount& a) {
                  wanted = wanted && visit(address, a);
                }));
    if (!more || !wanted) return {};
  }
}

Result<std::vector<std::pair<Address, Amount>>> Queries::Richest(const Moment& moment,
                                                                 size_t count_max) const {
  using Entry = std::pair<Address, Amount>;
  // A heap whose front is the poorest of those kept.
  const auto richer = [](const Entry& a, const Entry& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  };
  std::vector<Entry> heap;
  LEAT_TRY(ForEachBalance(moment, [&](const Address& address, const Amount& amount) {
    const Entry entry{address, amount};
    if (heap.size() < count_max) {
      heap.push_back(entry);
      std::push_heap(heap.begin(), heap.end(), richer);
    } else if (!heap.empty() && richer(entry, heap.front())) {
      std::pop_heap(heap.begin(), heap.end(), richer);
      heap.back() = entry;
      std::push_heap(heap.begin(), heap.end(), richer);
    }
    return true;
  }));
  std::sort_heap(heap.begin(), heap.end(), richer);
  return heap;
}

Result<Supply> Queries::SupplyAt(const Moment& moment) const {
  Supply supply;
  const auto of = [&](ledger::v1::SystemAccount account) -> Result<Amount> {
    LEAT_ASSIGN(const Balance balance, BalanceOf(moment, AccountKey::System(account)));
    return balance.amount;
  };
  LEAT_ASSIGN(const Amount issuance, of(ledger::v1::SYSTEM_ACCOUNT_ISSUANCE));
  LEAT_ASSIGN(const Amount opening, of(ledger::v1::SYSTEM_ACCOUNT_OPENING));
  LEAT_ASSIGN(supply.burnt, of(ledger::v1::SYSTEM_ACCOUNT_BURN));
  supply.issued = issuance.Negated();
  supply.opening = opening.Negated();
  // Every posting sums to zero, so what the system accounts lack is what the others have.
  supply.total = supply.issued + supply.opening - supply.burnt;
  return supply;
}

Result<std::vector<BlockRow>> Queries::Blocks(std::string_view chain_name,
                                              std::optional<uint64_t> below,
                                              size_t count_max) const {
  LEAT_ASSIGN(const Summary::Chain* chain, FindChain(chain_name));
  std::vector<BlockRow> out;
  if (!chain->row.has_head || (below && *below == 0)) return out;
  uint64_t number = below ? std::min(*below - 1, chain->row.head_number) : chain->row.head_number;
  while (out.size() < count_max) {
    uint64_t closed_at = 0;
    LEAT_ASSIGN(auto row,
                CanonicalAt(chain->row.number, number, view_.input.next, &closed_at));
    if (!row) break;
    number = row->closed.block_number();
    out.push_back(std::move(*row));
    if (number == 0) break;
    --number;
  }
  return out;
}

Result<BlockRow> Queries::BlockByHash(std::string_view chain_name, const Hash& hash) const {
  LEAT_ASSIGN(const Summary::Chain* chain, FindChain(chain_name));
  std::string value;
  LEAT_ASSIGN(const bool known, view_.Get(BlockHashKey(chain->row.number, hash.View()), &value));
  if (!known) return Fail(ErrorClass::kNotFound, "there is no block " + hash.Hex());
  uint64_t number = 0;
  LEAT_TRY(UnpackNumber(value, &number));
  const auto rows = view_.Iterate();
  const std::string prefix = BlockKey(chain->row.number, number, 0).substr(
      0, BlockPrefix(chain->row.number).size() + 8);
  BlockRow row;
  rows->SeekForPrev(BlockKey(chain->row.number, number, UINT64_MAX));
  for (; rows->Valid() && rows->key().starts_with(prefix); rows->Prev()) {
    row = {};
    LEAT_TRY(Unpack(rows->value(), &row));
    if (row.closed.block_hash() == hash.View()) return row;
  }
  LEAT_TRY(rows->status());
  return Fail(ErrorClass::kNotFound, "there is no block " + hash.Hex());
}

Result<std::optional<uint64_t>> Queries::AfterCause(std::string_view topic, uint32_t partition,
                                                    uint64_t offset) const {
  const auto rows = view_.Iterate();
  rows->SeekForPrev(CauseKey(topic, partition, offset));
  LEAT_TRY(rows->status());
  if (!rows->Valid() || !rows->key().starts_with(CausePrefix(topic, partition))) {
    return std::nullopt;
  }
  uint64_t position = 0;
  LEAT_TRY(UnpackNumber(rows->value(), &position));
  return position + 1;
}

}  // namespace leat::balances
