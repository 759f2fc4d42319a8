"""What devices send each other: the program's text, in the forms in which XLA writes it."""

import pytest

from flaxzoo.training.collectives import Collective, collectives

BODY = """\
HloModule jit_f, is_scheduled=true

%add.clone (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}}

ENTRY %main.1_spmd (param: f32[4,32]) -> f32[32] {{
  %param = f32[4,32]{{1,0}} parameter(0)
  {line}
}}
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "ROOT %all-reduce = f32[32]{0} all-reduce(%r), channel_id=1, "
            "replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add.clone",
            Collective("all-reduce", 128, 4),
        ),
        (
            "%all-reduce.1 = (bf16[32]{0}, f32[2,3]{1,0}) all-reduce(%a, %b), "
            "replica_groups=[1,8]<=[8], to_apply=%add.clone",
            Collective("all-reduce", 88, 8),
        ),
        (
            "ROOT %all-gather = f32[16,32]{1,0} all-gather(%p), "
            "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}, dimensions={0}",
            Collective("all-gather", 2048, 8),
        ),
        (
            "%ag = (f32[4,32]{1,0}, f32[16,32]{1,0}) all-gather-start(%p), "
            "replica_groups=[2,4]<=[8], dimensions={0}",
            Collective("all-gather", 2048, 4),
        ),
        (
            "%cp = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%p), "
            "source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", 16, 2),
        ),
        (
            "%rs = pred[3]{0} reduce-scatter(%p), replica_groups={{0,1}}, to_apply=%add.clone",
            Collective("reduce-scatter", 3, 2),
        ),
    ],
)
def test_an_operation_is_read(line, expected):
    assert collectives(BODY.format(line=line)) == (expected,)


@pytest.mark.parametrize(
    "line",
    [
        "%done = f32[16,32]{1,0} all-gather-done(%ag)",
        "%get-tuple-element.2 = f32[32]{0} get-tuple-element(%all-reduce.18), index=0",
        '%m = f32[4]{0} multiply(%a, %b), metadata={op_name="all-reduce(x)"}',
    ],
)
def test_what_only_speaks_of_one_is_none(line):
    assert collectives(BODY.format(line=line)) == ()


LOOP = """\
%body.1 (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%condition.1 (carry: (s32[], f32[4])) -> pred[] {
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%outer (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %w = (s32[], f32[4]{0}) while(%t), condition=%condition.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%t), condition=%condition.1, body=%outer, \
backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_what_is_in_loops_counts_each_time():
    (only,) = collectives(LOOP)
    assert only == Collective("all-reduce", 16, 2, count=15)


def test_bytes_that_rings_send():
    """An all-reduce is a reduce-scatter and an all-gather; each sends all parts but one."""
    size, n = 800, 8
    whole = Collective("all-reduce", size, n).sent
    scattered = Collective("reduce-scatter", size // n, n).sent
    gathered = Collective("all-gather", size, n).sent
    assert scattered == gathered == size * 7 / 8
    assert whole == scattered + gathered
    assert Collective("all-reduce", size, n, count=3).sent == 3 * whole
    assert Collective("all-reduce", size, 1).sent == 0
