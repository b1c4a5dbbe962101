"""Parts of Qwix that are private or that we replace, each with the reason. All were seen in Qwix 0.1.8."""

from typing import Any

import qwix
from qwix._src.utils import flax_util


class LoraProvider(qwix.LoraProvider):
    """Qwix's LoRA with a choice of the rule for each operation.

    Qwix finds an operation's rule by its module's path alone, in the private method `_get_current_rule_and_op_id`, and
    tells which module is at work in `flax_util` only.
    """

    def rule_in(self, module: Any, rule: Any) -> Any:
        """Returns the rule for an operation of `module` where Qwix has found `rule`, or None."""
        del module
        return rule

    def _get_current_rule_and_op_id(self, *arguments: Any, **options: Any) -> tuple:
        rule, operation = super()._get_current_rule_and_op_id(*arguments, **options)
        return (rule and self.rule_in(flax_util.get_current_module(), rule)), operation
