"""The functions of one session: a call in a query → a checked descriptor → one UDF over its content column."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession

from lakemill.errors import ModelNotFoundError, UsageError
from lakemill.serving.client import Endpoint
from lakemill.udfs import arguments, builder
from lakemill.udfs.call import Call
from lakemill.udfs.catalyst import Catalyst
from lakemill.udfs.families import Context, Family, Plan
from lakemill.udfs.models import Models
from lakemill.udfs.registry import FAMILIES
from lakemill.udfs.result import Shape
from lakemill.udfs.tally import Tally, TallyParam
from lakemill.udfs.worker import Worker

MODEL_CONF = "spark.lakemill.model"
ON_ERROR_CONF = "spark.lakemill.onError"
RUN_CONF = "spark.lakemill.run"
RECORD_CONF = "spark.lakemill.recordFailures"
KEY_PREFIX = "lakemill_key_"
_KEPT = 512
_FORMS = (("", Shape.VALUE), ("try_", Shape.TRY), (KEY_PREFIX, Shape.KEY))


class Functions:
    """Hold what the functions of one session share, and build their calls."""

    def __init__(
        self,
        spark: SparkSession,
        endpoint: Endpoint,
        *,
        default_model: str,
        conf_dir: str | os.PathLike[str] | None = None,
        on_use: Callable[[], None] = lambda: None,
    ) -> None:
        self.spark = spark
        self.endpoint = endpoint
        self.tally: Accumulator[Tally] = spark.sparkContext.accumulator(Tally(), TallyParam())
        self._catalyst = Catalyst(spark)
        self._default_model = default_model
        self._conf_dir = conf_dir
        self._on_use = on_use
        self._models = Models(endpoint)
        self._lock = threading.Lock()
        self._udfs: OrderedDict[Call, Any] = OrderedDict()

    def register(self) -> None:
        """Register every form of every function in the session."""
        builder.prepare(self._catalyst)
        for family in FAMILIES:
            for prefix, shape in _FORMS:
                name = prefix + family.name
                builder.register(self._catalyst, name, partial(self._build, name, family, shape))

    def _build(self, name: str, family: Family, shape: Shape, children: Any) -> Any:
        bound = arguments.bind(name, family.parameters, self._catalyst.arguments(children))
        content = arguments.text_column(name, family.content, bound[family.content])
        plan = family.plan(bound, Context(name, self._catalyst.parse_ddl, self._conf_dir))
        call = self._call(name, family, shape, plan)
        if shape is not Shape.KEY:
            self._on_use()
        return self._udf(name, call).builder(self._catalyst.seq([self._catalyst.bytes_of(content)]))

    def _call(self, name: str, family: Family, shape: Shape, plan: Plan) -> Call:
        model = plan.model or self._conf(MODEL_CONF) or self._default_model
        try:
            info = self._models.find(model, plan.task.kind)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{name}: {error.message}") from error
        return Call(
            function=family.name,
            task=plan.task,
            shape=plan.value if shape is Shape.VALUE else shape,
            model=model,
            version=None if info is None else info.version,
            endpoint=self.endpoint,
            fail=shape is Shape.VALUE and self._fails(name, family, plan),
            run=self._conf(RUN_CONF),
            record=(self._conf(RECORD_CONF) or "true").lower() != "false",
        )

    def _fails(self, name: str, family: Family, plan: Plan) -> bool:
        session = self._conf(ON_ERROR_CONF) if family.on_error == "null" else None
        if session not in (None, "null", "fail"):
            raise UsageError(f"{name}: {ON_ERROR_CONF} must be 'null' or 'fail', found '{session}'")
        return (plan.on_error or session or family.on_error) == "fail"

    def _conf(self, key: str) -> str | None:
        return self.spark.conf.get(key, None)

    def _udf(self, name: str, call: Call) -> Any:
        # One UDF a distinct call: equal calls in one query are then the same expression to Spark.
        with self._lock:
            found = self._udfs.pop(call, None)
            if found is None:
                found = self._catalyst.udf(name, Worker(call, self.tally), call.type)
            self._udfs[call] = found
            while len(self._udfs) > _KEPT:
                self._udfs.popitem(last=False)
            return found

    def drain(self) -> Tally:
        """Return what the workers told since the last call, and begin anew."""
        return self.tally.value.take()
