"""Collectives are read from the text of compiled programs."""

import pytest

from gsm8k_grpo.preflight.collectives import collective_bytes, count_collectives

# XLA's text: a loop with an asynchronous gather and a fusion with an all-reduce, and two collectives before the loop.
TEXT = """
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %all-reduce.1 = bf16[4,8]{1,0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %all-gather-start.1 = (f32[2,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%x), replica_groups=[4,2]<=[8], dimensions={0}
  %all-gather-done.1 = f32[4,8]{1,0} all-gather-done(%all-gather-start.1)
  %fusion.1 = bf16[4,8]{1,0} fusion(%y), kind=kCustom, calls=%fused
  ROOT %tuple = (s32[], f32[4,8]{1,0}) tuple(%n, %all-gather-done.1)
}

%condition (state: (s32[], f32[4,8])) -> pred[] {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}

ENTRY %main (w: f32[2,8]) -> f32[4,8] {
  %w = f32[2,8]{1,0} parameter(0)
  %all-gather.7 = f32[4,8]{1,0:T(8,128)} all-gather(%w), replica_groups=[4,2]<=[8], dimensions={0}
  %collective-permute-start.1 = (f32[2,8]{1,0}, f32[2,8]{1,0}, u32[], u32[]) collective-permute-start(%w)
  %while.1 = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%while.1), index=1
}
"""


def test_collectives_are_counted_in_loops_and_outside():
    assert count_collectives(TEXT) == {
        "in_loops": {"all-gather": {"count": 1, "bytes": 128}, "all-reduce": {"count": 1, "bytes": 64}},
        "outside": {"all-gather": {"count": 1, "bytes": 128}, "collective-permute": {"count": 1, "bytes": 64}},
    }


def test_collectives_of_a_program_compiled_here(on_eight_devices):
    counts = on_eight_devices("gather_before_loop.py")
    assert counts == {"in_loops": {}, "outside": {"all-gather": {"count": 1, "bytes": 1024}}}


def test_a_loops_collectives_count_as_often_as_it_runs():
    noted = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"24"},"other":"1"}')
    limited = TEXT.replace("  ROOT %less", "  %limit = s32[]{:T(128)} constant(24)\n  ROOT %less")  # as on a TPU
    for text in (noted, limited):
        assert collective_bytes(text) == 24 * (128 + 64) + 128 + 64
    with pytest.raises(ValueError, match=r"(all-gather|all-reduce) is in a loop whose trip count"):
        collective_bytes(TEXT)
