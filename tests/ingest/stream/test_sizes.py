"""Block sizes: values worked out by hand from the seed's formulas, then every clamp and bound for any numbers."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.stream import budget, sizes

# fmt: off
CELLS = [
    # n_obs, n_vars, GB, further arguments, result: memory / (n_vars x 8 x safety)
    ((100_000, 20_000), 32, {}, 4096),                              # 32e9 / 1.28e6 = 25,000
    ((100_000, 20_000), 4, {}, 3125),                               # 4e9 / 1.28e6 = 3,125
    ((100_000, 20_000), 4, {"safety_factor": 16.0}, 1562),          # 1,562.5
    ((7, 60_530), 1, {}, 512),                                      # 1e9 / 3,873,920 = 258
    ((7, 60_530), 1, {"min_chunk": 100}, 258),
    ((7, 60_530), 0, {}, 512),
    ((7, 0), 0, {}, 4096),                                          # no genes take no memory
    ((7, 20_000), 4, {"min_chunk": 900, "max_chunk": 800}, 900),    # the lower clamp wins
]
GENES = [
    # least of: memory x fraction / ((8 n_obs + 64 n_groups) x safety), 5 % of memory / 12 n_obs, bounds, max_chunk
    ((100_000, 20_000), 64, {}, 512),                               # 32e9 / 6.4e6 = 5,000; 3.2e9 / 1.2e6 = 2,666
    ((100_000, 20_000), 10, {}, 416),                               # 5e9 / 6.4e6 = 781; 0.5e9 / 1.2e6 = 416.7
    ((100_000, 20_000), 10, {"memory_fraction": 0.2}, 312),         # 2e9 / 6.4e6 = 312.5
    ((100_000, 20_000), 10, {"memory_fraction": 0.2, "safety_factor": 4.0}, 416),
    ((100_000, 20_000), 10, {"memory_fraction": 0.2, "n_groups": 10_000}, 173),   # 2e9 / (1.44e6 x 8) = 173.6
    ((1_000, 20_000), 200, {"n_groups": 2_000}, 512),
    ((1_000, 20_000), 200, {"n_groups": 2_001}, 384),
    ((1_000, 20_000), 200, {"n_groups": 5_000}, 384),
    ((1_000, 20_000), 200, {"n_groups": 5_001}, 256),
    ((1_000, 20_000), 200, {"n_groups": 10_000}, 256),
    ((1_000, 20_000), 200, {"n_groups": 10_001}, 128),
    ((1_000, 20_000), 200, {"n_groups": 10_001, "max_chunk": 100}, 100),
    ((300_000, 20_000), 31.9, {}, 443),                             # 1.595e9 / 3.6e6 = 443.06
    ((300_001, 20_000), 31.9, {}, 128),
    ((500_000, 20_000), 31.9, {}, 128),
    ((500_001, 20_000), 31.9, {}, 64),
    ((1_000_000, 20_000), 31.9, {}, 64),
    ((1_000_001, 20_000), 31.9, {}, 32),
    ((1_000_001, 20_000), 32, {}, 133),                             # no bound by cells; 1.6e9 / 12,000,012 = 133.3
    ((4_000_000, 38_000), 128, {"n_groups": 18_000}, 128),          # 64e9 / (33.152e6 x 8) = 241; 6.4e9 / 48e6 = 133
    ((50_000_000, 20_000), 64, {}, 32),                             # 3.2e9 / 6e8 = 5
    ((0, 20_000), 1, {}, 512),
]
WILCOXON = [
    ((396_458, 32_373), 128, {}, 4035),                             # 19.2e9 / 4,757,496 = 4,035.7
    ((1_161_864, 33_165), 128, {}, 1377),                           # 19.2e9 / 13,942,368 = 1,377.1
    ((1_161_864, 33_165), 128, {"max_chunk": 500}, 500),
    ((1_000, 33_165), 128, {}, 4096),
    ((100_000_000, 33_165), 128, {}, 32),                           # 16
    ((100_000_000, 33_165), 128, {"min_chunk": 8}, 16),
    ((0, 33_165), 128, {}, 4096),
]
NB_GLM = [
    ((100_000, 20_000), 128, {"n_groups": 100}, 256),               # 64e9 / (4,806,400 x 8) = 1,664
    ((1_200_000, 36_000), 128, {"n_groups": 500}, 138),             # 64e9 / (57,632,000 x 8) = 138.8
    ((1_200_000, 36_000), 128, {}, 138),                            # 64e9 / (57,600,000 x 8) = 138.9
    ((1_200_000, 36_000), 128, {"n_groups": 500_000}, 89),          # 64e9 / (89,600,000 x 8) = 89.3
    ((1_200_000, 36_000), 128, {"memory_limit_gb": 64}, 69),        # 69.4
    ((1_200_000, 36_000), 128, {"memory_limit_gb": 256}, 138),
    ((1_200_000, 36_000), 128, {"safety_factor": 16.0}, 69),
    ((1_200_000, 36_000), 128, {"memory_fraction": 1.0}, 256),      # 277
    ((10_000_000, 36_000), 16, {}, 32),                             # 2
    ((0, 36_000), 16, {}, 256),
]
PCA = [
    # usable = memory x fraction; covariance = n_vars x n_vars x 8; half of what is left / (8 n_vars)
    ((100_000, 1_000), 8.416, {"max_chunk": 10**9}, (262_500, "sparse_cov")),  # 4.208 - 0.008 = 4.2; / 2 / 8e3
    ((100_000, 8_000), 32, {}, (4096, "sparse_cov")),               # 0.512 < 4.8 GB; 15.488e9 / 2 / 64e3 = 120,999
    ((100_000, 50_000), 32, {}, (4096, "incremental")),             # 20 > 4.8; 15.9596e9 / 2 / 4e5 = 19,949
    ((100_000, 50_000), 2, {}, (1199, "incremental")),              # 1 - 0.0004 - 0.04 = 0.9596; / 2 / 4e5 = 1,199.5
    ((100_000, 50_000), 2, {"n_comps": 500}, (749, "incremental")),   # 1 - 0.0004 - 0.4 = 0.5996; 749.5
    ((100_000, 50_000), 2, {"n_comps": 5_000}, (256, "incremental")),  # 0.1 GB at least: 125
    ((100_000, 50_000), 2, {"n_comps": 5_000, "min_chunk": 1}, (125, "incremental")),
    ((100_000, 50_000), 64, {"method": "sparse_cov"}, (4096, "sparse_cov")),  # 32 - 20; 15,000
    ((100_000, 50_000), 41, {"method": "sparse_cov"}, (625, "sparse_cov")),   # 20.5 - 20 = 0.5; 625
    ((100_000, 8_000), 32, {"method": "incremental"}, (4096, "incremental")),
    ((100_000, 10_000), 4, {}, (4096, "incremental")),              # 0.8 > 0.6
    ((100_000, 10_000), 6, {}, (4096, "sparse_cov")),               # 0.8 < 0.9
    ((100_000, 10_000), 6, {"memory_fraction": 0.4}, (4096, "incremental")),  # 0.8 > 0.72
    ((100_000, 0), 6, {}, (4096, "sparse_cov")),
]
# fmt: on
TABLES = {
    "calculate_optimal_chunk_size": CELLS,
    "calculate_optimal_gene_chunk_size": GENES,
    "calculate_wilcoxon_chunk_size": WILCOXON,
    "calculate_nb_glm_chunk_size": NB_GLM,
    "calculate_pca_chunk_size": PCA,
}
EXTENTS = st.integers(0, 10**8)
MEMORY = st.floats(0, 1e4)
CHUNKS = st.integers(1, 10_000)


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in TABLES.items() for row in rows])
def test_by_hand(name, row):
    extents, memory_gb, further, want = row
    assert getattr(sizes, name)(*extents, available_memory_gb=memory_gb, **further) == want


@pytest.mark.parametrize("name", TABLES)
@given(n_obs=EXTENTS, n_vars=EXTENTS, memory_gb=MEMORY, more=MEMORY, least=CHUNKS, most=CHUNKS)
def test_clamped_and_never_less_for_more_memory(name, n_obs, n_vars, memory_gb, more, least, most):
    calculate = getattr(sizes, name)
    further = {"method": "incremental"} if name == "calculate_pca_chunk_size" else {}

    def chunk(available):
        found = calculate(n_obs, n_vars, available_memory_gb=available, min_chunk=least, max_chunk=most, **further)
        return found[0] if further else found

    small, large = chunk(memory_gb), chunk(memory_gb + more)
    assert least <= small <= max(least, most)
    if name != "calculate_optimal_gene_chunk_size" or not memory_gb < 32 <= memory_gb + more:
        assert small <= large
    assert isinstance(small, int)


@given(n_obs=EXTENTS, n_groups=st.none() | EXTENTS, memory_gb=MEMORY, most=CHUNKS)
def test_genes_within_every_bound(n_obs, n_groups, memory_gb, most):
    found = sizes.calculate_optimal_gene_chunk_size(n_obs, 1, n_groups, memory_gb, min_chunk=1, max_chunk=most)
    for above, bound in ((2_000, 384), (5_000, 256), (10_000, 128)):
        assert (n_groups or 0) <= above or found <= bound
    for above, bound in ((300_000, 128), (500_000, 64), (1_000_000, 32)):
        assert memory_gb >= 32 or n_obs <= above or found <= bound
    if found > 1:
        assert found * 12 * n_obs <= memory_gb * 0.05e9 * (1 + 1e-12)
        assert found * (8 * n_obs + 64 * (n_groups or 0)) * 8 <= memory_gb * 0.5e9 * (1 + 1e-12)


@given(n_vars=st.integers(0, 200_000), memory_gb=MEMORY, fraction=st.floats(0, 1), n_comps=st.integers(0, 1000))
def test_the_covariance_is_held_only_where_it_fits(n_vars, memory_gb, fraction, n_comps):
    found, method = sizes.calculate_pca_chunk_size(
        1, n_vars, n_comps, memory_gb, memory_fraction=fraction, min_chunk=1, max_chunk=10**9
    )
    assert (method == "sparse_cov") == (n_vars**2 * 8 / 1e9 < memory_gb * fraction * 0.3)
    if found > 1 and n_vars:
        held = n_vars**2 * 8 if method == "sparse_cov" else n_vars * 8 + 2 * n_comps * n_vars * 8
        left = max(0.1e9, memory_gb * fraction * 1e9 - held)
        assert found * 8 * n_vars <= left / 2 * (1 + 1e-9)


@pytest.mark.parametrize("name", TABLES)
def test_memory_is_that_of_the_process_by_default(name, monkeypatch):
    calculate = getattr(sizes, name)
    for memory in (3 * 10**9, 40 * 10**9):
        monkeypatch.setattr(budget, "available_memory", lambda memory=memory: memory)
        assert calculate(700_000, 30_000) == calculate(700_000, 30_000, available_memory_gb=memory / 1e9)


@pytest.mark.parametrize("name", TABLES)
def test_nonsense_is_refused(name):
    calculate = getattr(sizes, name)
    known = inspect.signature(calculate).parameters
    wrong = [
        ((-1, 5), {}),
        ((5, -1), {}),
        ((5, 5), {"n_groups": -1}),
        ((5, 5), {"n_comps": -1}),
        ((5, 5), {"available_memory_gb": -1.0}),
        ((5, 5), {"available_memory_gb": float("nan")}),
        ((5, 5), {"memory_limit_gb": -1.0}),
        ((5, 5), {"safety_factor": 0.0}),
        ((5, 5), {"memory_fraction": 1.5}),
        ((5, 5), {"method": "covariance"}),
    ]
    for extents, further in wrong:
        if set(further) <= set(known):
            with pytest.raises(ValueError, match=r"."):
                calculate(*extents, **{"available_memory_gb": 1.0, **further})


def test_signatures_are_the_seeds():
    assert {name: str(inspect.signature(getattr(sizes, name))).split(" ->")[0] for name in TABLES} == {
        "calculate_optimal_chunk_size": (
            "(n_obs: 'int', n_vars: 'int', available_memory_gb: 'float | None' = None, safety_factor: 'float' = 8.0, "
            "min_chunk: 'int' = 512, max_chunk: 'int' = 4096)"
        ),
        "calculate_optimal_gene_chunk_size": (
            "(n_obs: 'int', n_vars: 'int', n_groups: 'int | None' = None, available_memory_gb: 'float | None' = None, "
            "safety_factor: 'float' = 8.0, memory_fraction: 'float' = 0.5, min_chunk: 'int' = 32, "
            "max_chunk: 'int' = 512)"
        ),
        "calculate_wilcoxon_chunk_size": (
            "(n_obs: 'int', n_vars: 'int', *, available_memory_gb: 'float | None' = None, min_chunk: 'int' = 32, "
            "max_chunk: 'int' = 4096)"
        ),
        "calculate_nb_glm_chunk_size": (
            "(n_obs: 'int', n_vars: 'int', n_groups: 'int | None' = None, available_memory_gb: 'float | None' = None, "
            "memory_limit_gb: 'float | None' = None, safety_factor: 'float' = 8.0, memory_fraction: 'float' = 0.5, "
            "min_chunk: 'int' = 32, max_chunk: 'int' = 256)"
        ),
        "calculate_pca_chunk_size": (
            "(n_obs: 'int', n_vars: 'int', n_comps: 'int' = 50, available_memory_gb: 'float | None' = None, "
            "method: \"PcaMethod | Literal['auto']\" = 'auto', memory_fraction: 'float' = 0.5, min_chunk: 'int' = 256, "
            "max_chunk: 'int' = 4096)"
        ),
    }
