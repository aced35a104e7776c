"""What an organization may have: plans and their quotas as data, and credits in a ledger that is only ever added to.

Which plan an organization has is kept with it; whoever asks passes it as a value.
"""

from agentauri.billing.credits import CreditService as CreditService
from agentauri.billing.credits import CreditTransaction as CreditTransaction
from agentauri.billing.credits import TransactionType as TransactionType
from agentauri.billing.credits import read_usdc as read_usdc
from agentauri.billing.credits import write_usdc as write_usdc
from agentauri.billing.plans import PLANS as PLANS
from agentauri.billing.plans import Allowance as Allowance
from agentauri.billing.plans import PlanTerms as PlanTerms
from agentauri.billing.plans import Quota as Quota
from agentauri.billing.plans import Quotas as Quotas
from agentauri.billing.plans import UpgradeUnpaid as UpgradeUnpaid
from agentauri.billing.plans import payment as payment
