"""The doctor: every problem an operator may meet, as a check that finds it, says why it matters and how to mend it.

Looking changes nothing; only what is safe is mended, and only when asked to. Checks that cannot see, because what they
look through is broken, keep silent.
"""

from agentauri.doctor.bundle import bundle as bundle
from agentauri.doctor.bundle import redact as redact
from agentauri.doctor.check import Patient as Patient
from agentauri.doctor.examination import CHECKS as CHECKS
from agentauri.doctor.examination import OUTSIDE as OUTSIDE
from agentauri.doctor.examination import examine as examine
from agentauri.doctor.types import CheckResult as CheckResult
from agentauri.doctor.types import Report as Report
