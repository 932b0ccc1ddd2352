#include "producers/ledger/postings.h"

#include <algorithm>

#include "chain/v1/chain.pb.h"
#include "core/hash.h"

namespace leat::ledger {
namespace {

using chain::v1::BlockObserved;
using chain::v1::Frame;
using chain::v1::Header;
using chain::v1::Transaction;
using v1::EntriesPosted;
using v1::LegKind;

constexpr uint64_t kWeiPerGwei = 1'000'000'000;
constexpr std::string_view kMainnet = "eip155:1";
constexpr uint64_t kMainnetCancunBlock = 19'426'587;

// One side of a movement: an address, or a system account.
struct Account {
  std::string_view address;
  v1::SystemAccount system = v1::SYSTEM_ACCOUNT_NONE;
};

Account System(v1::SystemAccount system) { return {{}, system}; }

Result<Account> Mirrored(std::string_view address) {
  if (address.size() != Address::kSize) {
    return Invalid("an address of " + std::to_string(address.size()) + " bytes",
                   "20 bytes");
  }
  return Account{address, v1::SYSTEM_ACCOUNT_NONE};
}

void AddLeg(const Account& account, const Amount& amount, LegKind kind, EntriesPosted* posting) {
  v1::Leg* leg = posting->add_legs();
  if (account.system != v1::SYSTEM_ACCOUNT_NONE) {
    leg->set_account_class(v1::ACCOUNT_CLASS_SYSTEM);
    leg->set_system_account(account.system);
  } else {
    leg->set_address(account.address.data(), account.address.size());
  }
  leg->set_negative(amount.IsNegative());
  leg->set_magnitude(amount.Magnitude());
  leg->set_kind(kind);
}

void Move(const Account& from, const Account& to, const Amount& amount, LegKind kind,
          EntriesPosted* posting) {
  if (amount.IsZero()) return;
  AddLeg(from, amount.Negated(), kind, posting);
  AddLeg(to, amount, kind, posting);
}

// `multiplier` * `price`, which come from outside.
Result<Amount> Cost(uint64_t multiplier, std::string_view price) {
  LEAT_ASSIGN(Amount cost, Amount::FromBytes(price));
  if (!cost.CheckedMultiply(Amount(multiplier))) return Invalid("a fee exceeds 256 bits");
  return cost;
}

Status AddFees(const Header& header, const Transaction& transaction, const Account& sender,
               EntriesPosted* posting) {
  if (transaction.has_gas_used() && transaction.has_effective_gas_price() &&
      header.miner().size() == Address::kSize) {
    LEAT_ASSIGN(const Amount total,
                Cost(transaction.gas_used(), transaction.effective_gas_price()));
    LEAT_ASSIGN(const Amount burnt, Cost(transaction.gas_used(), header.base_fee_per_gas()));
    LEAT_ASSIGN(const Account miner, Mirrored(header.miner()));
    Move(sender, miner, total - burnt, v1::LEG_FEE, posting);
    Move(sender, System(v1::SYSTEM_ACCOUNT_BURN), burnt, v1::LEG_BASE_FEE, posting);
  }
  if (transaction.has_blob_gas_used() && transaction.has_blob_gas_price()) {
    LEAT_ASSIGN(const Amount burnt,
                Cost(transaction.blob_gas_used(), transaction.blob_gas_price()));
    Move(sender, System(v1::SYSTEM_ACCOUNT_BURN), burnt, v1::LEG_BLOB_FEE, posting);
  }
  return {};
}

bool IsCancun(const BlockObserved& block) {
  return block.header().has_excess_blob_gas() ||
         (block.chain() == kMainnet && block.header().number() >= kMainnetCancunBlock);
}

// Whether the frame failed, or one above it did.
bool FailedAt(const Transaction& transaction, const Frame& frame) {
  if (frame.failed()) return true;
  for (const Frame& other : transaction.frames()) {
    if (!other.failed() || other.trace_address_size() > frame.trace_address_size()) continue;
    if (std::equal(other.trace_address().begin(), other.trace_address().end(),
                   frame.trace_address().begin())) {
      return true;
    }
  }
  return false;
}

bool CreatedHere(const Transaction& transaction, std::string_view address) {
  if (transaction.created() == address) return true;
  for (const Frame& frame : transaction.frames()) {
    if (frame.kind() == chain::v1::FRAME_CREATE && frame.to() == address) return true;
  }
  return false;
}

Status AddFrame(const BlockObserved& block, const Transaction& transaction, const Frame& frame,
                EntriesPosted* posting) {
  const bool moves = frame.kind() == chain::v1::FRAME_CALL ||
                     frame.kind() == chain::v1::FRAME_CREATE ||
                     frame.kind() == chain::v1::FRAME_SELFDESTRUCT;
  if (!moves || frame.value().empty() || FailedAt(transaction, frame)) return {};
  LEAT_ASSIGN(const Amount value, Amount::FromBytes(frame.value()));
  LEAT_ASSIGN(const Account from, Mirrored(frame.from()));
  LEAT_ASSIGN(const Account to, Mirrored(frame.to()));
  if (frame.kind() == chain::v1::FRAME_SELFDESTRUCT) {
    if (frame.from() != frame.to()) {
      Move(from, to, value, v1::LEG_SELFDESTRUCT, posting);
    } else if (!IsCancun(block) || CreatedHere(transaction, frame.from())) {
      Move(from, System(v1::SYSTEM_ACCOUNT_BURN), value, v1::LEG_SELFDESTRUCT, posting);
    }
    return {};
  }
  Move(from, to, value, frame.trace_address_size() == 0 ? v1::LEG_TRANSFER : v1::LEG_INTERNAL,
       posting);
  return {};
}

Result<EntriesPosted> PostingOf(const BlockObserved& block, const Transaction& transaction) {
  EntriesPosted posting;
  posting.set_transaction_hash(transaction.hash());
  LEAT_ASSIGN(const Account sender, Mirrored(transaction.from()));
  LEAT_TRY(AddFees(block.header(), transaction, sender, &posting));
  if (transaction.outcome() == chain::v1::OUTCOME_FAILURE) return posting;
  if (transaction.traced()) {
    for (const Frame& frame : transaction.frames()) {
      LEAT_TRY(AddFrame(block, transaction, frame, &posting));
    }
    return posting;
  }
  LEAT_ASSIGN(const Amount value, Amount::FromBytes(transaction.value()));
  if (value.IsZero()) return posting;
  Address created;
  Account to;
  if (!transaction.to().empty()) {
    LEAT_ASSIGN(to, Mirrored(transaction.to()));
  } else if (!transaction.created().empty()) {
    LEAT_ASSIGN(to, Mirrored(transaction.created()));
  } else {
    created = ContractAddress(Address::From(transaction.from()), transaction.nonce());
    to.address = created.View();
  }
  Move(sender, to, value, v1::LEG_TRANSFER, &posting);
  return posting;
}

Result<EntriesPosted> PostingOf(const chain::v1::SystemTransfer& transfer) {
  EntriesPosted posting;
  LegKind kind = v1::LEG_REWARD;
  switch (transfer.kind()) {
    case chain::v1::SYSTEM_TRANSFER_GENESIS: kind = v1::LEG_GENESIS; break;
    case chain::v1::SYSTEM_TRANSFER_UNCLE_REWARD: kind = v1::LEG_UNCLE_REWARD; break;
    case chain::v1::SYSTEM_TRANSFER_IRREGULAR: kind = v1::LEG_IRREGULAR; break;
    default: break;
  }
  Account from = System(v1::SYSTEM_ACCOUNT_ISSUANCE);
  if (kind == v1::LEG_IRREGULAR) {
    LEAT_ASSIGN(from, Mirrored(transfer.from()));
  }
  LEAT_ASSIGN(const Account to, Mirrored(transfer.to()));
  LEAT_ASSIGN(const Amount value, Amount::FromBytes(transfer.value()));
  if (kind == v1::LEG_GENESIS) {
    // A grant of nothing makes an account all the same: an empty one is part of the state (until EIP-161).
    AddLeg(from, value.Negated(), kind, &posting);
    AddLeg(to, value, kind, &posting);
  } else {
    Move(from, to, value, kind, &posting);
  }
  return posting;
}

}  // namespace

Result<std::vector<EntriesPosted>> PostingsOf(const BlockObserved& block) {
  std::vector<EntriesPosted> out;
  out.reserve(static_cast<size_t>(block.transactions_size() + block.system_transfers_size() +
                                  block.withdrawals_size()));
  const auto add = [&](EntriesPosted posting) {
    if (posting.legs_size() == 0) return;
    posting.set_chain(block.chain());
    posting.set_block_number(block.header().number());
    out.push_back(std::move(posting));
  };
  for (const Transaction& transaction : block.transactions()) {
    auto posting = PostingOf(block, transaction);
    if (!posting) {
      return std::unexpected(posting.error().WithContext(
          "block " + std::to_string(block.header().number()) + " transaction " +
          core::ToHex(transaction.hash())));
    }
    add(std::move(*posting));
  }
  for (const auto& transfer : block.system_transfers()) {
    LEAT_ASSIGN(auto posting, PostingOf(transfer));
    add(std::move(posting));
  }
  for (const auto& withdrawal : block.withdrawals()) {
    EntriesPosted posting;
    LEAT_ASSIGN(const Account to, Mirrored(withdrawal.address()));
    Move(System(v1::SYSTEM_ACCOUNT_ISSUANCE), to,
         Amount(withdrawal.amount_gwei()) * Amount(kWeiPerGwei), v1::LEG_WITHDRAWAL, &posting);
    add(std::move(posting));
  }
  return out;
}

Result<std::vector<EntriesPosted>> PostingsOf(const chain::v1::OpeningObserved& opening) {
  std::vector<EntriesPosted> out;
  for (const auto& balance : opening.balances()) {
    EntriesPosted posting;
    posting.set_chain(opening.chain());
    LEAT_ASSIGN(const Account to, Mirrored(balance.address()));
    LEAT_ASSIGN(const Amount value, Amount::FromBytes(balance.balance_wei()));
    Move(System(v1::SYSTEM_ACCOUNT_OPENING), to, value, v1::LEG_OPENING, &posting);
    if (posting.legs_size() > 0) out.push_back(std::move(posting));
  }
  return out;
}

EntriesPosted Reversed(const EntriesPosted& posting, uint64_t version) {
  EntriesPosted reversed = posting;
  reversed.set_reverses_version(version);
  for (auto& leg : *reversed.mutable_legs()) leg.set_negative(!leg.negative());
  return reversed;
}

v1::Completeness CompletenessOf(const BlockObserved& block, bool linked) {
  const auto& coverage = block.coverage();
  const bool fees = coverage.receipts() && coverage.base_fee() &&
                    block.header().miner().size() == Address::kSize;
  if (!fees || !coverage.statuses()) return v1::COMPLETENESS_VALUE_ONLY;
  const bool exact =
      coverage.traces() && coverage.rewards() && !coverage.withdrawals_missing() && linked &&
      !block.header().synthetic();
  return exact ? v1::COMPLETENESS_EXACT : v1::COMPLETENESS_TOP_LEVEL;
}

Address ContractAddress(const Address& sender, uint64_t nonce) {
  std::string number;
  for (uint64_t rest = nonce; rest != 0; rest >>= 8) {
    number.insert(number.begin(), static_cast<char>(rest & 0xff));
  }
  std::string list(1, static_cast<char>(0x80 + Address::kSize));
  list.append(sender.View());
  const bool single_byte = number.size() == 1 && static_cast<uint8_t>(number[0]) < 0x80;
  if (!single_byte) list.push_back(static_cast<char>(0x80 + number.size()));
  list.append(number);
  const std::string rlp = static_cast<char>(0xc0 + list.size()) + list;
  return Address::From(core::Keccak256(rlp).View().substr(12));
}

Result<Amount> AmountOf(const v1::Leg& leg) {
  return Amount::FromBytes(leg.magnitude(), leg.negative());
}

}  // namespace leat::ledger
