"""Results that reports are made of."""

from tests.evaluation.conftest import report_path as report_path
from tests.evaluation.conftest import sweep as sweep
from tests.words.conftest import pictures as pictures
from tests.words.conftest import scorer as scorer
from tests.words.conftest import small_world_study as small_world_study
