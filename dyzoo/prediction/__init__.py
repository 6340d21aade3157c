"""Prediction as a job: from sources to files, with whatever goes wrong on the way."""

from dyzoo.prediction.formats import FORMATS
from dyzoo.prediction.job import Job, JobResult, Written, predict_to_folder
from dyzoo.prediction.journal import JOURNAL_NAME
from dyzoo.prediction.tracking import track

__all__ = ["FORMATS", "JOURNAL_NAME", "Job", "JobResult", "Written", "predict_to_folder", "track"]
