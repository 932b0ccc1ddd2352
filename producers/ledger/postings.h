// The rules by which a block's facts become postings: pure functions, one posting per transaction, reward, grant or
// withdrawal, each a list of legs that sum to zero.
#pragma once

#include <string_view>
#include <vector>

#include "core/amount.h"
#include "core/bytes.h"
#include "ledger/v1/ledger.pb.h"

namespace leat::chain::v1 {
class BlockObserved;
class Header;
class OpeningObserved;
class Transaction;
}  // namespace leat::chain::v1

namespace leat::ledger {

// Postings of one part of a block, in order: transactions by index, then system transfers, then withdrawals. Legs of
// zero are left out except those of genesis grants, and so are postings without legs. Errors: kInvalid for amounts or addresses of a wrong length.
//
// A transaction's sender pays gas_used * effective price: price - base fee of it to the miner, the base fee is burnt; the
// same for blob gas, all burnt. Value moves by the frames where there are traces, else by the transaction's own value
// unless it failed. A failed frame moves nothing, and nothing below it does. Delegate, code and static calls move nothing.
// A self-destruct to itself burns what was left, before Cancun (or in the transaction that created it: EIP-6780).
Result<std::vector<v1::EntriesPosted>> PostingsOf(const chain::v1::BlockObserved& block);
Result<std::vector<v1::EntriesPosted>> PostingsOf(const chain::v1::OpeningObserved& opening);

// The opposite of a posting.
v1::EntriesPosted Reversed(const v1::EntriesPosted& posting, uint64_t version);

// What balances rest on after this block alone; `linked`: its parent is the block that was applied before it.
v1::Completeness CompletenessOf(const chain::v1::BlockObserved& block, bool linked);

// The address of a contract created by a transaction: the last 20 bytes of keccak256(rlp([sender, nonce])) (Yellow Paper,
// section 7).
Address ContractAddress(const Address& sender, uint64_t nonce);

// The signed amount of a leg.
Result<Amount> AmountOf(const v1::Leg& leg);

}  // namespace leat::ledger
