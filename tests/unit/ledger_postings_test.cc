// The rules from facts to postings, as a table: what moves, who pays, what is burnt.
#include <doctest/doctest.h>

#include <map>

#include "chain/v1/chain.pb.h"
#include "producers/ledger/postings.h"

namespace {

using leat::Address;
using leat::Amount;
using leat::chain::v1::BlockObserved;
using leat::chain::v1::Frame;
using leat::chain::v1::Transaction;
using namespace leat::ledger;

const std::string kSender(20, '\x01'), kReceiver(20, '\x02'), kMiner(20, '\x03'), kThird(20, '\x04');
constexpr const char* kBurn = "burn";
constexpr const char* kIssuance = "issuance";

BlockObserved Block(uint64_t number = 1, const std::string& chain = "eip155:1") {
  BlockObserved block;
  block.set_chain(chain);
  block.set_part(1);
  block.set_parts(1);
  block.mutable_header()->set_number(number);
  block.mutable_header()->set_miner(kMiner);
  return block;
}

Transaction* Add(BlockObserved* block, uint64_t value) {
  auto* transaction = block->add_transactions();
  transaction->set_from(kSender);
  transaction->set_to(kReceiver);
  transaction->set_value(Amount(value).Magnitude());
  transaction->set_outcome(leat::chain::v1::OUTCOME_SUCCESS);
  return transaction;
}

void Fee(Transaction* transaction, uint64_t gas, uint64_t price) {
  transaction->set_gas_used(gas);
  transaction->set_effective_gas_price(Amount(price).Magnitude());
}

Frame* AddFrame(Transaction* transaction, leat::chain::v1::FrameKind kind,
                std::vector<uint32_t> address, const std::string& from, const std::string& to,
                uint64_t value) {
  transaction->set_traced(true);
  auto* frame = transaction->add_frames();
  frame->set_kind(kind);
  for (const uint32_t part : address) frame->add_trace_address(part);
  frame->set_from(from);
  frame->set_to(to);
  frame->set_value(Amount(value).Magnitude());
  return frame;
}

// Net effect by account; every posting is checked to sum to zero.
std::map<std::string, std::string> Net(const BlockObserved& block) {
  const auto postings = PostingsOf(block);
  REQUIRE(postings);
  std::map<std::string, Amount> net;
  for (const auto& posting : *postings) {
    CHECK(posting.chain() == block.chain());
    CHECK(posting.block_number() == block.header().number());
    CHECK(posting.legs_size() > 0);
    Amount sum;
    for (const auto& leg : posting.legs()) {
      const Amount amount = *AmountOf(leg);
      sum += amount;
      const std::string account =
          leg.account_class() == v1::ACCOUNT_CLASS_MIRRORED            ? leg.address()
          : leg.system_account() == v1::SYSTEM_ACCOUNT_BURN     ? kBurn
          : leg.system_account() == v1::SYSTEM_ACCOUNT_ISSUANCE ? kIssuance
                                                                : "opening";
      net[account] += amount;
    }
    CHECK(sum.IsZero());
  }
  std::map<std::string, std::string> out;
  for (const auto& [account, amount] : net) {
    if (!amount.IsZero()) out[account] = amount.ToDecimal();
  }
  return out;
}

using Expected = std::map<std::string, std::string>;

}  // namespace

TEST_CASE("value and fee of a plain transaction") {
  BlockObserved block = Block();
  Fee(Add(&block, 100), 21000, 2);
  CHECK(Net(block) == Expected{{kSender, "-42100"}, {kReceiver, "100"}, {kMiner, "42000"}});
}

TEST_CASE("the base fee is burnt and the miner gets the rest") {
  BlockObserved block = Block(13'000'000);
  block.mutable_header()->set_base_fee_per_gas(Amount(7).Magnitude());
  Fee(Add(&block, 0), 10, 9);
  CHECK(Net(block) == Expected{{kSender, "-90"}, {kMiner, "20"}, {kBurn, "70"}});
}

TEST_CASE("a failed transaction pays and moves nothing") {
  BlockObserved block = Block();
  Transaction* transaction = Add(&block, 100);
  Fee(transaction, 10, 3);
  transaction->set_outcome(leat::chain::v1::OUTCOME_FAILURE);
  CHECK(Net(block) == Expected{{kSender, "-30"}, {kMiner, "30"}});
  // Also where a trace of it says nothing of an error.
  AddFrame(transaction, leat::chain::v1::FRAME_CALL, {}, kSender, kReceiver, 100);
  CHECK(Net(block) == Expected{{kSender, "-30"}, {kMiner, "30"}});
}

TEST_CASE("blob gas is burnt, even by a failed transaction") {
  BlockObserved block = Block(19'500'000);
  Transaction* transaction = Add(&block, 5);
  transaction->set_blob_gas_used(131072);
  transaction->set_blob_gas_price(Amount(2).Magnitude());
  CHECK(Net(block) == Expected{{kSender, "-262149"}, {kReceiver, "5"}, {kBurn, "262144"}});
  transaction->set_outcome(leat::chain::v1::OUTCOME_FAILURE);
  CHECK(Net(block) == Expected{{kSender, "-262144"}, {kBurn, "262144"}});
}

TEST_CASE("with traces the frames move value, and failed ones nothing, with all below them") {
  BlockObserved block = Block();
  Transaction* transaction = Add(&block, 100);
  AddFrame(transaction, leat::chain::v1::FRAME_CALL, {}, kSender, kReceiver, 100);
  AddFrame(transaction, leat::chain::v1::FRAME_CALL, {0}, kReceiver, kThird, 30)->set_failed(true);
  AddFrame(transaction, leat::chain::v1::FRAME_CALL, {0, 0}, kThird, kMiner, 7);
  AddFrame(transaction, leat::chain::v1::FRAME_CALL, {0, 0, 3}, kThird, kMiner, 5);
  AddFrame(transaction, leat::chain::v1::FRAME_CALL, {1}, kReceiver, kThird, 10);
  // [0] is no ancestor of [01…]: the address is compared number by number.
  AddFrame(transaction, leat::chain::v1::FRAME_CREATE, {10}, kReceiver, kMiner, 1);
  CHECK(Net(block) ==
        Expected{{kSender, "-100"}, {kReceiver, "89"}, {kThird, "10"}, {kMiner, "1"}});
}

TEST_CASE("delegate, code and static calls move nothing") {
  BlockObserved block = Block();
  Transaction* transaction = Add(&block, 0);
  for (const auto kind : {leat::chain::v1::FRAME_DELEGATECALL, leat::chain::v1::FRAME_CALLCODE,
                          leat::chain::v1::FRAME_STATICCALL}) {
    AddFrame(transaction, kind, {0}, kSender, kReceiver, 50);
  }
  CHECK(Net(block).empty());
}

TEST_CASE("a self-destruct moves the balance; to itself it burns it before Cancun only") {
  const auto destruct = [](uint64_t number, const std::string& to, bool created) {
    BlockObserved block = Block(number);
    Transaction* transaction = Add(&block, 0);
    AddFrame(transaction, leat::chain::v1::FRAME_SELFDESTRUCT, {0}, kThird, to, 77);
    if (created) transaction->set_created(kThird);
    return Net(block);
  };
  CHECK(destruct(1, kReceiver, false) == Expected{{kThird, "-77"}, {kReceiver, "77"}});
  CHECK(destruct(1, kThird, false) == Expected{{kThird, "-77"}, {kBurn, "77"}});
  CHECK(destruct(19'426'586, kThird, false) == Expected{{kThird, "-77"}, {kBurn, "77"}});
  CHECK(destruct(19'426'587, kThird, false).empty());
  CHECK(destruct(19'426'587, kThird, true) == Expected{{kThird, "-77"}, {kBurn, "77"}});
  CHECK(destruct(19'426'587, kReceiver, false) == Expected{{kThird, "-77"}, {kReceiver, "77"}});
}

TEST_CASE("Cancun on other chains shows in the header") {
  BlockObserved block = Block(5, "eip155:5");
  Transaction* transaction = Add(&block, 0);
  AddFrame(transaction, leat::chain::v1::FRAME_SELFDESTRUCT, {0}, kThird, kThird, 77);
  CHECK(Net(block) == Expected{{kThird, "-77"}, {kBurn, "77"}});
  block.mutable_header()->set_excess_blob_gas(0);
  CHECK(Net(block).empty());
}

TEST_CASE("a creation pays its contract") {
  BlockObserved block = Block();
  Transaction* transaction = Add(&block, 9);
  transaction->clear_to();
  transaction->set_nonce(0);
  const Address derived = ContractAddress(Address::From(kSender), 0);
  CHECK(Net(block) == Expected{{kSender, "-9"}, {std::string(derived.View()), "9"}});
  transaction->set_created(kThird);
  CHECK(Net(block) == Expected{{kSender, "-9"}, {kThird, "9"}});
}

TEST_CASE("contract addresses") {
  // Well-known vectors of the sender 0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0.
  const Address sender = *leat::core::ParseAddress("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0");
  CHECK(ContractAddress(sender, 0).Hex() == "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d");
  CHECK(ContractAddress(sender, 1).Hex() == "0x343c43a37d37dff08ae8c4a11544c718abb4fcf8");
  CHECK(ContractAddress(sender, 2).Hex() == "0xf778b86fa74e846c4f0a1fbd1335fe81c00a0c91");
}

TEST_CASE("rewards, uncles, withdrawals, grants and irregular moves") {
  BlockObserved block = Block();
  const auto transfer = [&](leat::chain::v1::SystemTransferKind kind, const std::string& from,
                            const std::string& to, uint64_t value) {
    auto* made = block.add_system_transfers();
    made->set_kind(kind);
    made->set_from(from);
    made->set_to(to);
    made->set_value(Amount(value).Magnitude());
  };
  transfer(leat::chain::v1::SYSTEM_TRANSFER_BLOCK_REWARD, "", kMiner, 500);
  transfer(leat::chain::v1::SYSTEM_TRANSFER_UNCLE_REWARD, "", kThird, 400);
  transfer(leat::chain::v1::SYSTEM_TRANSFER_IRREGULAR, kSender, kReceiver, 60);
  auto* withdrawal = block.add_withdrawals();
  withdrawal->set_address(kReceiver);
  withdrawal->set_amount_gwei(2);
  CHECK(Net(block) == Expected{{kIssuance, "-2000000900"},
                               {kMiner, "500"},
                               {kThird, "400"},
                               {kSender, "-60"},
                               {kReceiver, "2000000060"}});
  CHECK(PostingsOf(block)->size() == 4);
}

TEST_CASE("a grant of nothing is posted, for the account it makes") {
  BlockObserved block = Block(0);
  auto* grant = block.add_system_transfers();
  grant->set_kind(leat::chain::v1::SYSTEM_TRANSFER_GENESIS);
  grant->set_to(kSender);
  const auto postings = *PostingsOf(block);
  REQUIRE(postings.size() == 1);
  CHECK(postings[0].legs_size() == 2);
}

TEST_CASE("the opposite of a posting") {
  BlockObserved block = Block();
  Fee(Add(&block, 100), 3, 4);
  const auto posting = PostingsOf(block)->front();
  const auto reversed = Reversed(posting, 12);
  CHECK(reversed.reverses_version() == 12);
  REQUIRE(reversed.legs_size() == posting.legs_size());
  for (int i = 0; i < posting.legs_size(); ++i) {
    CHECK(*AmountOf(reversed.legs(i)) == AmountOf(posting.legs(i))->Negated());
  }
}

TEST_CASE("what an answer rests on") {
  BlockObserved block = Block();
  auto* coverage = block.mutable_coverage();
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_VALUE_ONLY);
  coverage->set_receipts(true);
  coverage->set_base_fee(true);
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_VALUE_ONLY);  // statuses unknown
  coverage->set_statuses(true);
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_TOP_LEVEL);
  coverage->set_traces(true);
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_TOP_LEVEL);  // no rewards
  coverage->set_rewards(true);
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_EXACT);
  CHECK(CompletenessOf(block, false) == v1::COMPLETENESS_TOP_LEVEL);  // a gap before it
  coverage->set_withdrawals_missing(true);
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_TOP_LEVEL);
  coverage->set_withdrawals_missing(false);
  block.mutable_header()->set_synthetic(true);
  CHECK(CompletenessOf(block, true) == v1::COMPLETENESS_TOP_LEVEL);
}

TEST_CASE("amounts that cannot be are refused, not wrapped") {
  BlockObserved block = Block();
  Transaction* transaction = Add(&block, 0);
  transaction->set_gas_used(UINT64_MAX);
  transaction->set_effective_gas_price(std::string(32, '\xff'));
  CHECK_FALSE(PostingsOf(block));
  transaction->set_effective_gas_price(std::string(33, '\x01'));
  CHECK_FALSE(PostingsOf(block));
  transaction->clear_effective_gas_price();
  transaction->set_from("short");
  CHECK_FALSE(PostingsOf(block));
}
