"""The estimators: scikit-learn's own checks, worked cases, names."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmte.partition import DKMeans, KMeansElbow, LabelCentroids


def _expected_failures(estimator: object) -> dict[str, str]:
    if isinstance(estimator, DKMeans):
        return {
            "check_clustering": "asks that points lying together share a cluster; "
            "dk-means parts them by definition"
        }
    return {}


@parametrize_with_checks(
    [DKMeans(n_clusters=2), KMeansElbow(k_max=4), LabelCentroids()],
    expected_failed_checks=_expected_failures,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
