from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NearZero(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NEAR_ZERO_UNSPECIFIED: _ClassVar[NearZero]
    NEAR_ZERO_MIDPOINT: _ClassVar[NearZero]
    NEAR_ZERO_INPUT: _ClassVar[NearZero]
    NEAR_ZERO_REFERENCE: _ClassVar[NearZero]

class Quadrature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUADRATURE_UNSPECIFIED: _ClassVar[Quadrature]
    QUADRATURE_TRAPEZOID: _ClassVar[Quadrature]
    QUADRATURE_LEFT: _ClassVar[Quadrature]
    QUADRATURE_RIGHT: _ClassVar[Quadrature]
    QUADRATURE_RIEMANN_LEFT: _ClassVar[Quadrature]
    QUADRATURE_RIEMANN_RIGHT: _ClassVar[Quadrature]
    QUADRATURE_RIEMANN_MIDDLE: _ClassVar[Quadrature]
    QUADRATURE_RIEMANN_TRAPEZOID: _ClassVar[Quadrature]
    QUADRATURE_GAUSSLEGENDRE: _ClassVar[Quadrature]
    QUADRATURE_AUTO: _ClassVar[Quadrature]

class Sign(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGN_UNSPECIFIED: _ClassVar[Sign]
    SIGN_SIGNED: _ClassVar[Sign]
    SIGN_POSITIVE: _ClassVar[Sign]
    SIGN_ABSOLUTE: _ClassVar[Sign]

class Upsample(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPSAMPLE_UNSPECIFIED: _ClassVar[Upsample]
    UPSAMPLE_NONE: _ClassVar[Upsample]
    UPSAMPLE_NEAREST: _ClassVar[Upsample]
    UPSAMPLE_LINEAR: _ClassVar[Upsample]
    UPSAMPLE_LINEAR_CORNERS: _ClassVar[Upsample]

class CamForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAM_FORM_UNSPECIFIED: _ClassVar[CamForm]
    CAM_FORM_AUTHORS: _ClassVar[CamForm]
    CAM_FORM_JACOBGIL: _ClassVar[CamForm]

class TraceForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRACE_FORM_UNSPECIFIED: _ClassVar[TraceForm]
    TRACE_FORM_SIGNED: _ClassVar[TraceForm]
    TRACE_FORM_POSITIVE: _ClassVar[TraceForm]

class TraceFirst(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRACE_FIRST_UNSPECIFIED: _ClassVar[TraceFirst]
    TRACE_FIRST_AUTO: _ClassVar[TraceFirst]
    TRACE_FIRST_POSITIVE: _ClassVar[TraceFirst]
    TRACE_FIRST_ABSOLUTE: _ClassVar[TraceFirst]

class LrpRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LRP_RULE_UNSPECIFIED: _ClassVar[LrpRule]
    LRP_RULE_EPSILON: _ClassVar[LrpRule]
    LRP_RULE_GAMMA: _ClassVar[LrpRule]
    LRP_RULE_ZPLUS: _ClassVar[LrpRule]
    LRP_RULE_ALPHA_BETA: _ClassVar[LrpRule]
    LRP_RULE_W2: _ClassVar[LrpRule]
    LRP_RULE_FLAT: _ClassVar[LrpRule]
    LRP_RULE_BOX: _ClassVar[LrpRule]
    LRP_RULE_IDENTITY: _ClassVar[LrpRule]

class LrpFirst(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LRP_FIRST_UNSPECIFIED: _ClassVar[LrpFirst]
    LRP_FIRST_SAME: _ClassVar[LrpFirst]
    LRP_FIRST_EPSILON: _ClassVar[LrpFirst]
    LRP_FIRST_GAMMA: _ClassVar[LrpFirst]
    LRP_FIRST_ZPLUS: _ClassVar[LrpFirst]
    LRP_FIRST_ALPHA_BETA: _ClassVar[LrpFirst]
    LRP_FIRST_W2: _ClassVar[LrpFirst]
    LRP_FIRST_FLAT: _ClassVar[LrpFirst]
    LRP_FIRST_BOX: _ClassVar[LrpFirst]
    LRP_FIRST_IDENTITY: _ClassVar[LrpFirst]

class LrpComposite(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LRP_COMPOSITE_UNSPECIFIED: _ClassVar[LrpComposite]
    LRP_COMPOSITE_NONE: _ClassVar[LrpComposite]
    LRP_COMPOSITE_EPSILON_PLUS: _ClassVar[LrpComposite]
    LRP_COMPOSITE_EPSILON_PLUS_FLAT: _ClassVar[LrpComposite]
    LRP_COMPOSITE_EPSILON_ALPHA2_BETA1: _ClassVar[LrpComposite]
    LRP_COMPOSITE_EPSILON_ALPHA2_BETA1_FLAT: _ClassVar[LrpComposite]
    LRP_COMPOSITE_EPSILON_GAMMA_BOX: _ClassVar[LrpComposite]

class LrpForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LRP_FORM_UNSPECIFIED: _ClassVar[LrpForm]
    LRP_FORM_GENERAL: _ClassVar[LrpForm]
    LRP_FORM_CAPTUM: _ClassVar[LrpForm]

class BatchMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCH_MODE_UNSPECIFIED: _ClassVar[BatchMode]
    BATCH_MODE_DYNAMIC: _ClassVar[BatchMode]
    BATCH_MODE_FREED: _ClassVar[BatchMode]
    BATCH_MODE_SINGLE: _ClassVar[BatchMode]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_CONVERGED: _ClassVar[StopReason]
    STOP_REASON_MAX_STEPS: _ClassVar[StopReason]
    STOP_REASON_DEADLINE_NEAR: _ClassVar[StopReason]
    STOP_REASON_DRAINING: _ClassVar[StopReason]
    STOP_REASON_EXACT: _ClassVar[StopReason]
NEAR_ZERO_UNSPECIFIED: NearZero
NEAR_ZERO_MIDPOINT: NearZero
NEAR_ZERO_INPUT: NearZero
NEAR_ZERO_REFERENCE: NearZero
QUADRATURE_UNSPECIFIED: Quadrature
QUADRATURE_TRAPEZOID: Quadrature
QUADRATURE_LEFT: Quadrature
QUADRATURE_RIGHT: Quadrature
QUADRATURE_RIEMANN_LEFT: Quadrature
QUADRATURE_RIEMANN_RIGHT: Quadrature
QUADRATURE_RIEMANN_MIDDLE: Quadrature
QUADRATURE_RIEMANN_TRAPEZOID: Quadrature
QUADRATURE_GAUSSLEGENDRE: Quadrature
QUADRATURE_AUTO: Quadrature
SIGN_UNSPECIFIED: Sign
SIGN_SIGNED: Sign
SIGN_POSITIVE: Sign
SIGN_ABSOLUTE: Sign
UPSAMPLE_UNSPECIFIED: Upsample
UPSAMPLE_NONE: Upsample
UPSAMPLE_NEAREST: Upsample
UPSAMPLE_LINEAR: Upsample
UPSAMPLE_LINEAR_CORNERS: Upsample
CAM_FORM_UNSPECIFIED: CamForm
CAM_FORM_AUTHORS: CamForm
CAM_FORM_JACOBGIL: CamForm
TRACE_FORM_UNSPECIFIED: TraceForm
TRACE_FORM_SIGNED: TraceForm
TRACE_FORM_POSITIVE: TraceForm
TRACE_FIRST_UNSPECIFIED: TraceFirst
TRACE_FIRST_AUTO: TraceFirst
TRACE_FIRST_POSITIVE: TraceFirst
TRACE_FIRST_ABSOLUTE: TraceFirst
LRP_RULE_UNSPECIFIED: LrpRule
LRP_RULE_EPSILON: LrpRule
LRP_RULE_GAMMA: LrpRule
LRP_RULE_ZPLUS: LrpRule
LRP_RULE_ALPHA_BETA: LrpRule
LRP_RULE_W2: LrpRule
LRP_RULE_FLAT: LrpRule
LRP_RULE_BOX: LrpRule
LRP_RULE_IDENTITY: LrpRule
LRP_FIRST_UNSPECIFIED: LrpFirst
LRP_FIRST_SAME: LrpFirst
LRP_FIRST_EPSILON: LrpFirst
LRP_FIRST_GAMMA: LrpFirst
LRP_FIRST_ZPLUS: LrpFirst
LRP_FIRST_ALPHA_BETA: LrpFirst
LRP_FIRST_W2: LrpFirst
LRP_FIRST_FLAT: LrpFirst
LRP_FIRST_BOX: LrpFirst
LRP_FIRST_IDENTITY: LrpFirst
LRP_COMPOSITE_UNSPECIFIED: LrpComposite
LRP_COMPOSITE_NONE: LrpComposite
LRP_COMPOSITE_EPSILON_PLUS: LrpComposite
LRP_COMPOSITE_EPSILON_PLUS_FLAT: LrpComposite
LRP_COMPOSITE_EPSILON_ALPHA2_BETA1: LrpComposite
LRP_COMPOSITE_EPSILON_ALPHA2_BETA1_FLAT: LrpComposite
LRP_COMPOSITE_EPSILON_GAMMA_BOX: LrpComposite
LRP_FORM_UNSPECIFIED: LrpForm
LRP_FORM_GENERAL: LrpForm
LRP_FORM_CAPTUM: LrpForm
BATCH_MODE_UNSPECIFIED: BatchMode
BATCH_MODE_DYNAMIC: BatchMode
BATCH_MODE_FREED: BatchMode
BATCH_MODE_SINGLE: BatchMode
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_CONVERGED: StopReason
STOP_REASON_MAX_STEPS: StopReason
STOP_REASON_DEADLINE_NEAR: StopReason
STOP_REASON_DRAINING: StopReason
STOP_REASON_EXACT: StopReason

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "raw")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    raw: bytes
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., raw: _Optional[bytes] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("start", "stop", "step")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    step: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class Axis(_message.Message):
    __slots__ = ("index", "range", "mask")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    index: int
    range: Range
    mask: Tensor
    def __init__(self, index: _Optional[int] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., mask: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Selector(_message.Message):
    __slots__ = ("axes", "automatic", "weights", "elements")
    AXES_FIELD_NUMBER: _ClassVar[int]
    AUTOMATIC_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    axes: _containers.RepeatedCompositeFieldContainer[Axis]
    automatic: bool
    weights: Tensor
    elements: _containers.RepeatedCompositeFieldContainer[Selector]
    def __init__(self, axes: _Optional[_Iterable[_Union[Axis, _Mapping]]] = ..., automatic: bool = ..., weights: _Optional[_Union[Tensor, _Mapping]] = ..., elements: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("tensor", "selectors", "minus", "logit", "mean_centred")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    MINUS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_FIELD_NUMBER: _ClassVar[int]
    MEAN_CENTRED_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    selectors: _containers.RepeatedCompositeFieldContainer[Selector]
    minus: _containers.RepeatedCompositeFieldContainer[Selector]
    logit: bool
    mean_centred: bool
    def __init__(self, tensor: _Optional[str] = ..., selectors: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ..., minus: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ..., logit: bool = ..., mean_centred: bool = ...) -> None: ...

class Baseline(_message.Message):
    __slots__ = ("scalar", "tensor", "references")
    SCALAR_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    scalar: float
    tensor: Tensor
    references: References
    def __init__(self, scalar: _Optional[float] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., references: _Optional[_Union[References, _Mapping]] = ...) -> None: ...

class References(_message.Message):
    __slots__ = ("tensor", "per_sample")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    tensor: Tensor
    per_sample: bool
    def __init__(self, tensor: _Optional[_Union[Tensor, _Mapping]] = ..., per_sample: bool = ...) -> None: ...

class Sizes(_message.Message):
    __slots__ = ("sizes",)
    SIZES_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class Gradient(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GradientXActivation(_message.Message):
    __slots__ = ("multiply_by_inputs",)
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    multiply_by_inputs: bool
    def __init__(self, multiply_by_inputs: bool = ...) -> None: ...

class IntegratedGradients(_message.Message):
    __slots__ = ("steps", "tolerance", "max_steps", "quadrature", "multiply_by_inputs")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    tolerance: float
    max_steps: int
    quadrature: Quadrature
    multiply_by_inputs: bool
    def __init__(self, steps: _Optional[int] = ..., tolerance: _Optional[float] = ..., max_steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ..., multiply_by_inputs: bool = ...) -> None: ...

class NeuronIG(_message.Message):
    __slots__ = ("steps", "tolerance", "max_steps", "quadrature")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    tolerance: float
    max_steps: int
    quadrature: Quadrature
    def __init__(self, steps: _Optional[int] = ..., tolerance: _Optional[float] = ..., max_steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ...) -> None: ...

class DeepLiftRescale(_message.Message):
    __slots__ = ("multiply_by_inputs", "near_zero")
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    NEAR_ZERO_FIELD_NUMBER: _ClassVar[int]
    multiply_by_inputs: bool
    near_zero: NearZero
    def __init__(self, multiply_by_inputs: bool = ..., near_zero: _Optional[_Union[NearZero, str]] = ...) -> None: ...

class DeepLiftRevealCancel(_message.Message):
    __slots__ = ("multiply_by_inputs", "near_zero")
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    NEAR_ZERO_FIELD_NUMBER: _ClassVar[int]
    multiply_by_inputs: bool
    near_zero: NearZero
    def __init__(self, multiply_by_inputs: bool = ..., near_zero: _Optional[_Union[NearZero, str]] = ...) -> None: ...

class DeepLiftGenomicsDefault(_message.Message):
    __slots__ = ("multiply_by_inputs", "near_zero")
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    NEAR_ZERO_FIELD_NUMBER: _ClassVar[int]
    multiply_by_inputs: bool
    near_zero: NearZero
    def __init__(self, multiply_by_inputs: bool = ..., near_zero: _Optional[_Union[NearZero, str]] = ...) -> None: ...

class Occlusion(_message.Message):
    __slots__ = ("groups", "windows", "strides")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class WindowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class StridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.MessageMap[str, Tensor]
    windows: _containers.MessageMap[str, Sizes]
    strides: _containers.MessageMap[str, Sizes]
    def __init__(self, groups: _Optional[_Mapping[str, Tensor]] = ..., windows: _Optional[_Mapping[str, Sizes]] = ..., strides: _Optional[_Mapping[str, Sizes]] = ...) -> None: ...

class LayerActivation(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InternalInfluence(_message.Message):
    __slots__ = ("steps", "tolerance", "max_steps", "quadrature")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    tolerance: float
    max_steps: int
    quadrature: Quadrature
    def __init__(self, steps: _Optional[int] = ..., tolerance: _Optional[float] = ..., max_steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ...) -> None: ...

class NeuronConductance(_message.Message):
    __slots__ = ("steps", "tolerance", "max_steps", "quadrature", "neuron", "multiply_by_inputs")
    class NeuronEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    tolerance: float
    max_steps: int
    quadrature: Quadrature
    neuron: _containers.MessageMap[str, Sizes]
    multiply_by_inputs: bool
    def __init__(self, steps: _Optional[int] = ..., tolerance: _Optional[float] = ..., max_steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ..., neuron: _Optional[_Mapping[str, Sizes]] = ..., multiply_by_inputs: bool = ...) -> None: ...

class ExpectedGradients(_message.Message):
    __slots__ = ("draws", "seed", "stdev", "multiply_by_inputs")
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STDEV_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    draws: int
    seed: int
    stdev: float
    multiply_by_inputs: bool
    def __init__(self, draws: _Optional[int] = ..., seed: _Optional[int] = ..., stdev: _Optional[float] = ..., multiply_by_inputs: bool = ...) -> None: ...

class SmoothGrad(_message.Message):
    __slots__ = ("draws", "seed", "stdev", "noise_level", "of", "absolute", "multiply_by_inputs", "steps", "quadrature", "groups", "windows", "strides", "neuron")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class WindowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class StridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class NeuronEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STDEV_FIELD_NUMBER: _ClassVar[int]
    NOISE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    draws: int
    seed: int
    stdev: float
    noise_level: float
    of: str
    absolute: bool
    multiply_by_inputs: bool
    steps: int
    quadrature: Quadrature
    groups: _containers.MessageMap[str, Tensor]
    windows: _containers.MessageMap[str, Sizes]
    strides: _containers.MessageMap[str, Sizes]
    neuron: _containers.MessageMap[str, Sizes]
    def __init__(self, draws: _Optional[int] = ..., seed: _Optional[int] = ..., stdev: _Optional[float] = ..., noise_level: _Optional[float] = ..., of: _Optional[str] = ..., absolute: bool = ..., multiply_by_inputs: bool = ..., steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ..., groups: _Optional[_Mapping[str, Tensor]] = ..., windows: _Optional[_Mapping[str, Sizes]] = ..., strides: _Optional[_Mapping[str, Sizes]] = ..., neuron: _Optional[_Mapping[str, Sizes]] = ...) -> None: ...

class SmoothGradSquared(_message.Message):
    __slots__ = ("draws", "seed", "stdev", "noise_level", "of", "absolute", "multiply_by_inputs", "steps", "quadrature", "groups", "windows", "strides", "neuron")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class WindowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class StridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class NeuronEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STDEV_FIELD_NUMBER: _ClassVar[int]
    NOISE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    draws: int
    seed: int
    stdev: float
    noise_level: float
    of: str
    absolute: bool
    multiply_by_inputs: bool
    steps: int
    quadrature: Quadrature
    groups: _containers.MessageMap[str, Tensor]
    windows: _containers.MessageMap[str, Sizes]
    strides: _containers.MessageMap[str, Sizes]
    neuron: _containers.MessageMap[str, Sizes]
    def __init__(self, draws: _Optional[int] = ..., seed: _Optional[int] = ..., stdev: _Optional[float] = ..., noise_level: _Optional[float] = ..., of: _Optional[str] = ..., absolute: bool = ..., multiply_by_inputs: bool = ..., steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ..., groups: _Optional[_Mapping[str, Tensor]] = ..., windows: _Optional[_Mapping[str, Sizes]] = ..., strides: _Optional[_Mapping[str, Sizes]] = ..., neuron: _Optional[_Mapping[str, Sizes]] = ...) -> None: ...

class VarGrad(_message.Message):
    __slots__ = ("draws", "seed", "stdev", "noise_level", "of", "absolute", "multiply_by_inputs", "steps", "quadrature", "groups", "windows", "strides", "neuron")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class WindowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class StridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class NeuronEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STDEV_FIELD_NUMBER: _ClassVar[int]
    NOISE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    QUADRATURE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    draws: int
    seed: int
    stdev: float
    noise_level: float
    of: str
    absolute: bool
    multiply_by_inputs: bool
    steps: int
    quadrature: Quadrature
    groups: _containers.MessageMap[str, Tensor]
    windows: _containers.MessageMap[str, Sizes]
    strides: _containers.MessageMap[str, Sizes]
    neuron: _containers.MessageMap[str, Sizes]
    def __init__(self, draws: _Optional[int] = ..., seed: _Optional[int] = ..., stdev: _Optional[float] = ..., noise_level: _Optional[float] = ..., of: _Optional[str] = ..., absolute: bool = ..., multiply_by_inputs: bool = ..., steps: _Optional[int] = ..., quadrature: _Optional[_Union[Quadrature, str]] = ..., groups: _Optional[_Mapping[str, Tensor]] = ..., windows: _Optional[_Mapping[str, Sizes]] = ..., strides: _Optional[_Mapping[str, Sizes]] = ..., neuron: _Optional[_Mapping[str, Sizes]] = ...) -> None: ...

class GradCam(_message.Message):
    __slots__ = ("sign", "relu_attributions", "attr_dim_summation", "channel_axis", "upsample")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    RELU_ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTR_DIM_SUMMATION_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    relu_attributions: bool
    attr_dim_summation: bool
    channel_axis: int
    upsample: Upsample
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., relu_attributions: bool = ..., attr_dim_summation: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ...) -> None: ...

class GradCamPlusPlus(_message.Message):
    __slots__ = ("sign", "relu_attributions", "attr_dim_summation", "channel_axis", "upsample", "form")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    RELU_ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTR_DIM_SUMMATION_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    relu_attributions: bool
    attr_dim_summation: bool
    channel_axis: int
    upsample: Upsample
    form: CamForm
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., relu_attributions: bool = ..., attr_dim_summation: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ..., form: _Optional[_Union[CamForm, str]] = ...) -> None: ...

class HiResCam(_message.Message):
    __slots__ = ("sign", "relu_attributions", "attr_dim_summation", "channel_axis", "upsample")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    RELU_ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTR_DIM_SUMMATION_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    relu_attributions: bool
    attr_dim_summation: bool
    channel_axis: int
    upsample: Upsample
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., relu_attributions: bool = ..., attr_dim_summation: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ...) -> None: ...

class LayerCam(_message.Message):
    __slots__ = ("sign", "relu_attributions", "attr_dim_summation", "channel_axis", "upsample")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    RELU_ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTR_DIM_SUMMATION_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    relu_attributions: bool
    attr_dim_summation: bool
    channel_axis: int
    upsample: Upsample
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., relu_attributions: bool = ..., attr_dim_summation: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ...) -> None: ...

class XGradCam(_message.Message):
    __slots__ = ("sign", "relu_attributions", "attr_dim_summation", "channel_axis", "upsample")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    RELU_ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTR_DIM_SUMMATION_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    relu_attributions: bool
    attr_dim_summation: bool
    channel_axis: int
    upsample: Upsample
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., relu_attributions: bool = ..., attr_dim_summation: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ...) -> None: ...

class KernelShap(_message.Message):
    __slots__ = ("coalitions", "seed", "groups", "windows", "strides")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class WindowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    class StridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Sizes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Sizes, _Mapping]] = ...) -> None: ...
    COALITIONS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    coalitions: int
    seed: int
    groups: _containers.MessageMap[str, Tensor]
    windows: _containers.MessageMap[str, Sizes]
    strides: _containers.MessageMap[str, Sizes]
    def __init__(self, coalitions: _Optional[int] = ..., seed: _Optional[int] = ..., groups: _Optional[_Mapping[str, Tensor]] = ..., windows: _Optional[_Mapping[str, Sizes]] = ..., strides: _Optional[_Mapping[str, Sizes]] = ...) -> None: ...

class GuidedGradCam(_message.Message):
    __slots__ = ("sign", "relu_attributions", "channel_axis", "upsample")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    RELU_ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    relu_attributions: bool
    channel_axis: int
    upsample: Upsample
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., relu_attributions: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ...) -> None: ...

class FullGrad(_message.Message):
    __slots__ = ("sign", "normalise", "multiply_by_biases", "channel_axis", "upsample")
    SIGN_FIELD_NUMBER: _ClassVar[int]
    NORMALISE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_BIASES_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLE_FIELD_NUMBER: _ClassVar[int]
    sign: Sign
    normalise: bool
    multiply_by_biases: bool
    channel_axis: int
    upsample: Upsample
    def __init__(self, sign: _Optional[_Union[Sign, str]] = ..., normalise: bool = ..., multiply_by_biases: bool = ..., channel_axis: _Optional[int] = ..., upsample: _Optional[_Union[Upsample, str]] = ...) -> None: ...

class FullGradTerms(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GuidedBackprop(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeconvNet(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RectGrad(_message.Message):
    __slots__ = ("quantile", "tau", "absolute", "proportional", "multiply_by_inputs")
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    PROPORTIONAL_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    quantile: float
    tau: float
    absolute: bool
    proportional: bool
    multiply_by_inputs: bool
    def __init__(self, quantile: _Optional[float] = ..., tau: _Optional[float] = ..., absolute: bool = ..., proportional: bool = ..., multiply_by_inputs: bool = ...) -> None: ...

class FbTrace(_message.Message):
    __slots__ = ("form", "tau", "budget", "first", "channel_axis", "top")
    FORM_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    form: TraceForm
    tau: float
    budget: float
    first: TraceFirst
    channel_axis: int
    top: int
    def __init__(self, form: _Optional[_Union[TraceForm, str]] = ..., tau: _Optional[float] = ..., budget: _Optional[float] = ..., first: _Optional[_Union[TraceFirst, str]] = ..., channel_axis: _Optional[int] = ..., top: _Optional[int] = ...) -> None: ...

class Lrp(_message.Message):
    __slots__ = ("rule", "composite", "first", "rules", "epsilon", "gamma", "alpha", "beta", "low", "high", "form", "zero_bias")
    RULE_FIELD_NUMBER: _ClassVar[int]
    COMPOSITE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    ZERO_BIAS_FIELD_NUMBER: _ClassVar[int]
    rule: LrpRule
    composite: LrpComposite
    first: LrpFirst
    rules: str
    epsilon: float
    gamma: float
    alpha: float
    beta: float
    low: _containers.RepeatedScalarFieldContainer[float]
    high: _containers.RepeatedScalarFieldContainer[float]
    form: LrpForm
    zero_bias: bool
    def __init__(self, rule: _Optional[_Union[LrpRule, str]] = ..., composite: _Optional[_Union[LrpComposite, str]] = ..., first: _Optional[_Union[LrpFirst, str]] = ..., rules: _Optional[str] = ..., epsilon: _Optional[float] = ..., gamma: _Optional[float] = ..., alpha: _Optional[float] = ..., beta: _Optional[float] = ..., low: _Optional[_Iterable[float]] = ..., high: _Optional[_Iterable[float]] = ..., form: _Optional[_Union[LrpForm, str]] = ..., zero_bias: bool = ...) -> None: ...

class CustomMethod(_message.Message):
    __slots__ = ("name", "parameters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "inputs", "outputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[str]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("outputs",)
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Ranked(_message.Message):
    __slots__ = ("numbers", "start", "stop")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    numbers: int
    start: int
    stop: int
    def __init__(self, numbers: _Optional[int] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class Patch(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, rows: _Optional[_Iterable[int]] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("layer", "at", "ranked", "number", "tensor", "mean", "patch", "scale")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    RANKED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    at: _containers.RepeatedCompositeFieldContainer[Selector]
    ranked: Ranked
    number: float
    tensor: Tensor
    mean: bool
    patch: Patch
    scale: float
    def __init__(self, layer: _Optional[str] = ..., at: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ..., ranked: _Optional[_Union[Ranked, _Mapping]] = ..., number: _Optional[float] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., mean: bool = ..., patch: _Optional[_Union[Patch, _Mapping]] = ..., scale: _Optional[float] = ...) -> None: ...

class Intervention(_message.Message):
    __slots__ = ("edits",)
    EDITS_FIELD_NUMBER: _ClassVar[int]
    edits: _containers.RepeatedCompositeFieldContainer[Edit]
    def __init__(self, edits: _Optional[_Iterable[_Union[Edit, _Mapping]]] = ...) -> None: ...

class InterveneRequest(_message.Message):
    __slots__ = ("model", "inputs", "interventions", "target", "outputs", "donors", "numbers", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    INTERVENTIONS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DONORS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    interventions: _containers.RepeatedCompositeFieldContainer[Intervention]
    target: Target
    outputs: _containers.RepeatedScalarFieldContainer[str]
    donors: _containers.RepeatedCompositeFieldContainer[Tensor]
    numbers: _containers.RepeatedCompositeFieldContainer[Tensor]
    request_id: str
    def __init__(self, model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., interventions: _Optional[_Iterable[_Union[Intervention, _Mapping]]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., outputs: _Optional[_Iterable[str]] = ..., donors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., numbers: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class InterveneResponse(_message.Message):
    __slots__ = ("target", "values", "largest", "largest_before", "outputs", "outputs_before", "batch_mode", "evaluations", "seconds", "digest", "provider", "warnings")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    LARGEST_BEFORE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    BATCH_MODE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    target: ResolvedTarget
    values: _containers.RepeatedScalarFieldContainer[float]
    largest: _containers.RepeatedScalarFieldContainer[int]
    largest_before: _containers.RepeatedScalarFieldContainer[int]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs_before: _containers.RepeatedCompositeFieldContainer[Tensor]
    batch_mode: BatchMode
    evaluations: int
    seconds: float
    digest: str
    provider: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, target: _Optional[_Union[ResolvedTarget, _Mapping]] = ..., values: _Optional[_Iterable[float]] = ..., largest: _Optional[_Iterable[int]] = ..., largest_before: _Optional[_Iterable[int]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs_before: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., batch_mode: _Optional[_Union[BatchMode, str]] = ..., evaluations: _Optional[int] = ..., seconds: _Optional[float] = ..., digest: _Optional[str] = ..., provider: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ChannelSums(_message.Message):
    __slots__ = ("axis",)
    AXIS_FIELD_NUMBER: _ClassVar[int]
    axis: int
    def __init__(self, axis: _Optional[int] = ...) -> None: ...

class AttributeRequest(_message.Message):
    __slots__ = ("model", "inputs", "layers", "source", "target", "baselines", "request_id", "validate_only", "targets", "last_only", "sums_only", "channel_sums", "custom", "gradient", "gradient_x_activation", "integrated_gradients", "neuron_ig", "deeplift_rescale", "deeplift_reveal_cancel", "deeplift_genomics_default", "occlusion", "layer_activation", "expected_gradients", "smoothgrad", "smoothgrad_sq", "vargrad", "internal_influence", "neuron_conductance", "grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "xgrad_cam", "kernel_shap", "guided_grad_cam", "full_grad", "full_grad_terms", "guided_backprop", "deconvnet", "rectgrad", "lrp", "fb_trace")
    class BaselinesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Baseline
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Baseline, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    LAST_ONLY_FIELD_NUMBER: _ClassVar[int]
    SUMS_ONLY_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_SUMS_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_X_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    INTEGRATED_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    NEURON_IG_FIELD_NUMBER: _ClassVar[int]
    DEEPLIFT_RESCALE_FIELD_NUMBER: _ClassVar[int]
    DEEPLIFT_REVEAL_CANCEL_FIELD_NUMBER: _ClassVar[int]
    DEEPLIFT_GENOMICS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    OCCLUSION_FIELD_NUMBER: _ClassVar[int]
    LAYER_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    SMOOTHGRAD_FIELD_NUMBER: _ClassVar[int]
    SMOOTHGRAD_SQ_FIELD_NUMBER: _ClassVar[int]
    VARGRAD_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    NEURON_CONDUCTANCE_FIELD_NUMBER: _ClassVar[int]
    GRAD_CAM_FIELD_NUMBER: _ClassVar[int]
    GRAD_CAM_PP_FIELD_NUMBER: _ClassVar[int]
    HIRES_CAM_FIELD_NUMBER: _ClassVar[int]
    LAYER_CAM_FIELD_NUMBER: _ClassVar[int]
    XGRAD_CAM_FIELD_NUMBER: _ClassVar[int]
    KERNEL_SHAP_FIELD_NUMBER: _ClassVar[int]
    GUIDED_GRAD_CAM_FIELD_NUMBER: _ClassVar[int]
    FULL_GRAD_FIELD_NUMBER: _ClassVar[int]
    FULL_GRAD_TERMS_FIELD_NUMBER: _ClassVar[int]
    GUIDED_BACKPROP_FIELD_NUMBER: _ClassVar[int]
    DECONVNET_FIELD_NUMBER: _ClassVar[int]
    RECTGRAD_FIELD_NUMBER: _ClassVar[int]
    LRP_FIELD_NUMBER: _ClassVar[int]
    FB_TRACE_FIELD_NUMBER: _ClassVar[int]
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    layers: _containers.RepeatedScalarFieldContainer[str]
    source: _containers.RepeatedScalarFieldContainer[str]
    target: Target
    baselines: _containers.MessageMap[str, Baseline]
    request_id: str
    validate_only: bool
    targets: _containers.RepeatedCompositeFieldContainer[Target]
    last_only: bool
    sums_only: bool
    channel_sums: ChannelSums
    custom: CustomMethod
    gradient: Gradient
    gradient_x_activation: GradientXActivation
    integrated_gradients: IntegratedGradients
    neuron_ig: NeuronIG
    deeplift_rescale: DeepLiftRescale
    deeplift_reveal_cancel: DeepLiftRevealCancel
    deeplift_genomics_default: DeepLiftGenomicsDefault
    occlusion: Occlusion
    layer_activation: LayerActivation
    expected_gradients: ExpectedGradients
    smoothgrad: SmoothGrad
    smoothgrad_sq: SmoothGradSquared
    vargrad: VarGrad
    internal_influence: InternalInfluence
    neuron_conductance: NeuronConductance
    grad_cam: GradCam
    grad_cam_pp: GradCamPlusPlus
    hires_cam: HiResCam
    layer_cam: LayerCam
    xgrad_cam: XGradCam
    kernel_shap: KernelShap
    guided_grad_cam: GuidedGradCam
    full_grad: FullGrad
    full_grad_terms: FullGradTerms
    guided_backprop: GuidedBackprop
    deconvnet: DeconvNet
    rectgrad: RectGrad
    lrp: Lrp
    fb_trace: FbTrace
    def __init__(self, model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., layers: _Optional[_Iterable[str]] = ..., source: _Optional[_Iterable[str]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., baselines: _Optional[_Mapping[str, Baseline]] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., targets: _Optional[_Iterable[_Union[Target, _Mapping]]] = ..., last_only: bool = ..., sums_only: bool = ..., channel_sums: _Optional[_Union[ChannelSums, _Mapping]] = ..., custom: _Optional[_Union[CustomMethod, _Mapping]] = ..., gradient: _Optional[_Union[Gradient, _Mapping]] = ..., gradient_x_activation: _Optional[_Union[GradientXActivation, _Mapping]] = ..., integrated_gradients: _Optional[_Union[IntegratedGradients, _Mapping]] = ..., neuron_ig: _Optional[_Union[NeuronIG, _Mapping]] = ..., deeplift_rescale: _Optional[_Union[DeepLiftRescale, _Mapping]] = ..., deeplift_reveal_cancel: _Optional[_Union[DeepLiftRevealCancel, _Mapping]] = ..., deeplift_genomics_default: _Optional[_Union[DeepLiftGenomicsDefault, _Mapping]] = ..., occlusion: _Optional[_Union[Occlusion, _Mapping]] = ..., layer_activation: _Optional[_Union[LayerActivation, _Mapping]] = ..., expected_gradients: _Optional[_Union[ExpectedGradients, _Mapping]] = ..., smoothgrad: _Optional[_Union[SmoothGrad, _Mapping]] = ..., smoothgrad_sq: _Optional[_Union[SmoothGradSquared, _Mapping]] = ..., vargrad: _Optional[_Union[VarGrad, _Mapping]] = ..., internal_influence: _Optional[_Union[InternalInfluence, _Mapping]] = ..., neuron_conductance: _Optional[_Union[NeuronConductance, _Mapping]] = ..., grad_cam: _Optional[_Union[GradCam, _Mapping]] = ..., grad_cam_pp: _Optional[_Union[GradCamPlusPlus, _Mapping]] = ..., hires_cam: _Optional[_Union[HiResCam, _Mapping]] = ..., layer_cam: _Optional[_Union[LayerCam, _Mapping]] = ..., xgrad_cam: _Optional[_Union[XGradCam, _Mapping]] = ..., kernel_shap: _Optional[_Union[KernelShap, _Mapping]] = ..., guided_grad_cam: _Optional[_Union[GuidedGradCam, _Mapping]] = ..., full_grad: _Optional[_Union[FullGrad, _Mapping]] = ..., full_grad_terms: _Optional[_Union[FullGradTerms, _Mapping]] = ..., guided_backprop: _Optional[_Union[GuidedBackprop, _Mapping]] = ..., deconvnet: _Optional[_Union[DeconvNet, _Mapping]] = ..., rectgrad: _Optional[_Union[RectGrad, _Mapping]] = ..., lrp: _Optional[_Union[Lrp, _Mapping]] = ..., fb_trace: _Optional[_Union[FbTrace, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("request_id", "digest", "batch_mode", "target_tensor", "layers", "planned_evaluations")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_MODE_FIELD_NUMBER: _ClassVar[int]
    TARGET_TENSOR_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PLANNED_EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    digest: str
    batch_mode: BatchMode
    target_tensor: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    planned_evaluations: int
    def __init__(self, request_id: _Optional[str] = ..., digest: _Optional[str] = ..., batch_mode: _Optional[_Union[BatchMode, str]] = ..., target_tensor: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., planned_evaluations: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("done", "planned", "seconds")
    DONE_FIELD_NUMBER: _ClassVar[int]
    PLANNED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    done: int
    planned: int
    seconds: float
    def __init__(self, done: _Optional[int] = ..., planned: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ResolvedTarget(_message.Message):
    __slots__ = ("tensor", "indices", "values", "baseline_values", "labels")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    BASELINE_VALUES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    indices: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[float]
    baseline_values: _containers.RepeatedScalarFieldContainer[float]
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tensor: _Optional[str] = ..., indices: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[float]] = ..., baseline_values: _Optional[_Iterable[float]] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class LayerSummary(_message.Message):
    __slots__ = ("name", "datatype", "shape", "cut", "sums", "residuals", "error_estimates", "spreads", "shares")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    RESIDUALS_FIELD_NUMBER: _ClassVar[int]
    ERROR_ESTIMATES_FIELD_NUMBER: _ClassVar[int]
    SPREADS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    cut: bool
    sums: _containers.RepeatedScalarFieldContainer[float]
    residuals: _containers.RepeatedScalarFieldContainer[float]
    error_estimates: _containers.RepeatedScalarFieldContainer[float]
    spreads: _containers.RepeatedScalarFieldContainer[float]
    shares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., cut: bool = ..., sums: _Optional[_Iterable[float]] = ..., residuals: _Optional[_Iterable[float]] = ..., error_estimates: _Optional[_Iterable[float]] = ..., spreads: _Optional[_Iterable[float]] = ..., shares: _Optional[_Iterable[float]] = ...) -> None: ...

class CutSet(_message.Message):
    __slots__ = ("layers", "residuals")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    RESIDUALS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedScalarFieldContainer[str]
    residuals: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, layers: _Optional[_Iterable[str]] = ..., residuals: _Optional[_Iterable[float]] = ...) -> None: ...

class SupportBox(_message.Message):
    __slots__ = ("top", "left", "bottom", "right", "size", "mass")
    TOP_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    top: int
    left: int
    bottom: int
    right: int
    size: int
    mass: float
    def __init__(self, top: _Optional[int] = ..., left: _Optional[int] = ..., bottom: _Optional[int] = ..., right: _Optional[int] = ..., size: _Optional[int] = ..., mass: _Optional[float] = ...) -> None: ...

class SupportUnit(_message.Message):
    __slots__ = ("unit", "share")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    unit: _containers.RepeatedScalarFieldContainer[int]
    share: float
    def __init__(self, unit: _Optional[_Iterable[int]] = ..., share: _Optional[float] = ...) -> None: ...

class LayerSupport(_message.Message):
    __slots__ = ("layer", "kept", "units", "mass", "positions", "parts", "boxes", "top")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    layer: str
    kept: int
    units: int
    mass: float
    positions: _containers.RepeatedScalarFieldContainer[int]
    parts: int
    boxes: _containers.RepeatedCompositeFieldContainer[SupportBox]
    top: _containers.RepeatedCompositeFieldContainer[SupportUnit]
    def __init__(self, layer: _Optional[str] = ..., kept: _Optional[int] = ..., units: _Optional[int] = ..., mass: _Optional[float] = ..., positions: _Optional[_Iterable[int]] = ..., parts: _Optional[int] = ..., boxes: _Optional[_Iterable[_Union[SupportBox, _Mapping]]] = ..., top: _Optional[_Iterable[_Union[SupportUnit, _Mapping]]] = ...) -> None: ...

class FlowEdge(_message.Message):
    __slots__ = ("layer", "unit", "to_layer", "to_unit", "share")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TO_LAYER_FIELD_NUMBER: _ClassVar[int]
    TO_UNIT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    unit: _containers.RepeatedScalarFieldContainer[int]
    to_layer: str
    to_unit: _containers.RepeatedScalarFieldContainer[int]
    share: float
    def __init__(self, layer: _Optional[str] = ..., unit: _Optional[_Iterable[int]] = ..., to_layer: _Optional[str] = ..., to_unit: _Optional[_Iterable[int]] = ..., share: _Optional[float] = ...) -> None: ...

class Support(_message.Message):
    __slots__ = ("layers", "edges")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerSupport]
    edges: _containers.RepeatedCompositeFieldContainer[FlowEdge]
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerSupport, _Mapping]]] = ..., edges: _Optional[_Iterable[_Union[FlowEdge, _Mapping]]] = ...) -> None: ...

class AttributionSummary(_message.Message):
    __slots__ = ("method", "batch_mode", "target", "layers", "evaluations", "steps", "seconds", "digest", "provider", "warnings", "joint_residuals", "targets", "cut_sets", "supports")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BATCH_MODE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    JOINT_RESIDUALS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    CUT_SETS_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_FIELD_NUMBER: _ClassVar[int]
    method: str
    batch_mode: BatchMode
    target: ResolvedTarget
    layers: _containers.RepeatedCompositeFieldContainer[LayerSummary]
    evaluations: int
    steps: int
    seconds: float
    digest: str
    provider: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    joint_residuals: _containers.RepeatedScalarFieldContainer[float]
    targets: _containers.RepeatedCompositeFieldContainer[ResolvedTarget]
    cut_sets: _containers.RepeatedCompositeFieldContainer[CutSet]
    supports: _containers.RepeatedCompositeFieldContainer[Support]
    def __init__(self, method: _Optional[str] = ..., batch_mode: _Optional[_Union[BatchMode, str]] = ..., target: _Optional[_Union[ResolvedTarget, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[LayerSummary, _Mapping]]] = ..., evaluations: _Optional[int] = ..., steps: _Optional[int] = ..., seconds: _Optional[float] = ..., digest: _Optional[str] = ..., provider: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., joint_residuals: _Optional[_Iterable[float]] = ..., targets: _Optional[_Iterable[_Union[ResolvedTarget, _Mapping]]] = ..., cut_sets: _Optional[_Iterable[_Union[CutSet, _Mapping]]] = ..., supports: _Optional[_Iterable[_Union[Support, _Mapping]]] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("number", "summary")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    number: int
    summary: AttributionSummary
    def __init__(self, number: _Optional[int] = ..., summary: _Optional[_Union[AttributionSummary, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("revision", "layer", "offset", "data", "last")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    revision: int
    layer: int
    offset: int
    data: bytes
    last: bool
    def __init__(self, revision: _Optional[int] = ..., layer: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("stop_reason", "best_revision")
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    BEST_REVISION_FIELD_NUMBER: _ClassVar[int]
    stop_reason: StopReason
    best_revision: int
    def __init__(self, stop_reason: _Optional[_Union[StopReason, str]] = ..., best_revision: _Optional[int] = ...) -> None: ...

class StreamAttributeResponse(_message.Message):
    __slots__ = ("accepted", "progress", "revision", "chunk", "completed")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    progress: Progress
    revision: Revision
    chunk: Chunk
    completed: Completed
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ...) -> None: ...

class AttributeResponse(_message.Message):
    __slots__ = ("accepted", "summary", "attributions", "stop_reason")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    summary: AttributionSummary
    attributions: _containers.RepeatedCompositeFieldContainer[Tensor]
    stop_reason: StopReason
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., summary: _Optional[_Union[AttributionSummary, _Mapping]] = ..., attributions: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ...) -> None: ...

class Dimension(_message.Message):
    __slots__ = ("size", "symbol")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    size: int
    symbol: str
    def __init__(self, size: _Optional[int] = ..., symbol: _Optional[str] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("dimensions",)
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    dimensions: _containers.RepeatedCompositeFieldContainer[Dimension]
    def __init__(self, dimensions: _Optional[_Iterable[_Union[Dimension, _Mapping]]] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "dtype", "shape", "batch_axis")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BATCH_AXIS_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: Shape
    batch_axis: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Union[Shape, _Mapping]] = ..., batch_axis: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "state", "reason", "digest", "opset", "batch_mode", "sources", "inputs", "outputs", "class_names", "preprocessing", "description", "load_seconds")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Model.State]
        STATE_READY: _ClassVar[Model.State]
        STATE_FAILED: _ClassVar[Model.State]
        STATE_UNLOADED: _ClassVar[Model.State]
    STATE_UNSPECIFIED: Model.State
    STATE_READY: Model.State
    STATE_FAILED: Model.State
    STATE_UNLOADED: Model.State
    class ClassNamesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ClassNames
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ClassNames, _Mapping]] = ...) -> None: ...
    class PreprocessingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Preprocessing
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Preprocessing, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    BATCH_MODE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    state: Model.State
    reason: str
    digest: str
    opset: int
    batch_mode: BatchMode
    sources: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    class_names: _containers.MessageMap[str, ClassNames]
    preprocessing: _containers.MessageMap[str, Preprocessing]
    description: str
    load_seconds: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[_Union[Model.State, str]] = ..., reason: _Optional[str] = ..., digest: _Optional[str] = ..., opset: _Optional[int] = ..., batch_mode: _Optional[_Union[BatchMode, str]] = ..., sources: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., class_names: _Optional[_Mapping[str, ClassNames]] = ..., preprocessing: _Optional[_Mapping[str, Preprocessing]] = ..., description: _Optional[str] = ..., load_seconds: _Optional[float] = ...) -> None: ...

class ClassNames(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("kind", "size", "scale", "mean", "std", "layout", "colours")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    COLOURS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    size: _containers.RepeatedScalarFieldContainer[int]
    scale: float
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    layout: str
    colours: str
    def __init__(self, kind: _Optional[str] = ..., size: _Optional[_Iterable[int]] = ..., scale: _Optional[float] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., layout: _Optional[str] = ..., colours: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "node", "operator", "dtype", "shape", "cut", "after", "channel_axis")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_AXIS_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    operator: str
    dtype: str
    shape: Shape
    cut: bool
    after: _containers.RepeatedScalarFieldContainer[str]
    channel_axis: int
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., operator: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Union[Shape, _Mapping]] = ..., cut: bool = ..., after: _Optional[_Iterable[str]] = ..., channel_axis: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListLayersRequest(_message.Message):
    __slots__ = ("model", "filter", "page_size", "page_token", "target")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    model: str
    filter: str
    page_size: int
    page_token: str
    target: str
    def __init__(self, model: _Optional[str] = ..., filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class ListLayersResponse(_message.Message):
    __slots__ = ("layers", "next_page_token")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    next_page_token: str
    def __init__(self, layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "kind", "default", "help", "optional", "choices", "at_least", "above", "at_most", "accuracy")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Parameter.Kind]
        KIND_INTEGER: _ClassVar[Parameter.Kind]
        KIND_NUMBER: _ClassVar[Parameter.Kind]
        KIND_SWITCH: _ClassVar[Parameter.Kind]
        KIND_CHOICE: _ClassVar[Parameter.Kind]
        KIND_TEXT: _ClassVar[Parameter.Kind]
        KIND_ARRAYS: _ClassVar[Parameter.Kind]
        KIND_SIZES: _ClassVar[Parameter.Kind]
        KIND_NUMBERS: _ClassVar[Parameter.Kind]
    KIND_UNSPECIFIED: Parameter.Kind
    KIND_INTEGER: Parameter.Kind
    KIND_NUMBER: Parameter.Kind
    KIND_SWITCH: Parameter.Kind
    KIND_CHOICE: Parameter.Kind
    KIND_TEXT: Parameter.Kind
    KIND_ARRAYS: Parameter.Kind
    KIND_SIZES: Parameter.Kind
    KIND_NUMBERS: Parameter.Kind
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: Parameter.Kind
    default: _struct_pb2.Value
    help: str
    optional: bool
    choices: _containers.RepeatedScalarFieldContainer[str]
    at_least: float
    above: float
    at_most: float
    accuracy: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Parameter.Kind, str]] = ..., default: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., help: _Optional[str] = ..., optional: bool = ..., choices: _Optional[_Iterable[str]] = ..., at_least: _Optional[float] = ..., above: _Optional[float] = ..., at_most: _Optional[float] = ..., accuracy: bool = ...) -> None: ...

class MethodInfo(_message.Message):
    __slots__ = ("name", "summary", "description", "parameters", "paper", "captum", "needs_reference", "needs_derivatives", "layer_is_source", "sums_to", "error_estimate", "multiplied_by_inputs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PAPER_FIELD_NUMBER: _ClassVar[int]
    CAPTUM_FIELD_NUMBER: _ClassVar[int]
    NEEDS_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_DERIVATIVES_FIELD_NUMBER: _ClassVar[int]
    LAYER_IS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SUMS_TO_FIELD_NUMBER: _ClassVar[int]
    ERROR_ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLIED_BY_INPUTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    description: str
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    paper: str
    captum: str
    needs_reference: bool
    needs_derivatives: bool
    layer_is_source: bool
    sums_to: str
    error_estimate: bool
    multiplied_by_inputs: bool
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., description: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., paper: _Optional[str] = ..., captum: _Optional[str] = ..., needs_reference: bool = ..., needs_derivatives: bool = ..., layer_is_source: bool = ..., sums_to: _Optional[str] = ..., error_estimate: bool = ..., multiplied_by_inputs: bool = ...) -> None: ...

class ListMethodsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMethodsResponse(_message.Message):
    __slots__ = ("methods", "next_page_token")
    METHODS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    methods: _containers.RepeatedCompositeFieldContainer[MethodInfo]
    next_page_token: str
    def __init__(self, methods: _Optional[_Iterable[_Union[MethodInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UploadModelRequest(_message.Message):
    __slots__ = ("begin", "data")
    class Begin(_message.Message):
        __slots__ = ("name", "version", "size", "sha256")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        SIZE_FIELD_NUMBER: _ClassVar[int]
        SHA256_FIELD_NUMBER: _ClassVar[int]
        name: str
        version: int
        size: int
        sha256: str
        def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    begin: UploadModelRequest.Begin
    data: bytes
    def __init__(self, begin: _Optional[_Union[UploadModelRequest.Begin, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class AuditOpen(_message.Message):
    __slots__ = ("request", "window", "resume_from")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    RESUME_FROM_FIELD_NUMBER: _ClassVar[int]
    request: AttributeRequest
    window: int
    resume_from: int
    def __init__(self, request: _Optional[_Union[AttributeRequest, _Mapping]] = ..., window: _Optional[int] = ..., resume_from: _Optional[int] = ...) -> None: ...

class AuditItem(_message.Message):
    __slots__ = ("sequence", "inputs", "target")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    target: Target
    def __init__(self, sequence: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., target: _Optional[_Union[Target, _Mapping]] = ...) -> None: ...

class AuditRequest(_message.Message):
    __slots__ = ("open", "item")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    open: AuditOpen
    item: AuditItem
    def __init__(self, open: _Optional[_Union[AuditOpen, _Mapping]] = ..., item: _Optional[_Union[AuditItem, _Mapping]] = ...) -> None: ...

class AuditOpened(_message.Message):
    __slots__ = ("window", "digest")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    window: int
    digest: str
    def __init__(self, window: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class AuditResult(_message.Message):
    __slots__ = ("sequence", "summary", "attributions", "stop_reason")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    summary: AttributionSummary
    attributions: _containers.RepeatedCompositeFieldContainer[Tensor]
    stop_reason: StopReason
    def __init__(self, sequence: _Optional[int] = ..., summary: _Optional[_Union[AttributionSummary, _Mapping]] = ..., attributions: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ...) -> None: ...

class AuditError(_message.Message):
    __slots__ = ("sequence", "status")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    status: _status_pb2.Status
    def __init__(self, sequence: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class AuditProgress(_message.Message):
    __slots__ = ("answered", "seconds", "watermark")
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    answered: int
    seconds: float
    watermark: int
    def __init__(self, answered: _Optional[int] = ..., seconds: _Optional[float] = ..., watermark: _Optional[int] = ...) -> None: ...

class AuditSummary(_message.Message):
    __slots__ = ("results", "errors", "seconds", "worst_residual", "median_residual")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    WORST_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    results: int
    errors: int
    seconds: float
    worst_residual: float
    median_residual: float
    def __init__(self, results: _Optional[int] = ..., errors: _Optional[int] = ..., seconds: _Optional[float] = ..., worst_residual: _Optional[float] = ..., median_residual: _Optional[float] = ...) -> None: ...

class AuditResponse(_message.Message):
    __slots__ = ("opened", "result", "error", "progress", "summary")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    opened: AuditOpened
    result: AuditResult
    error: AuditError
    progress: AuditProgress
    summary: AuditSummary
    def __init__(self, opened: _Optional[_Union[AuditOpened, _Mapping]] = ..., result: _Optional[_Union[AuditResult, _Mapping]] = ..., error: _Optional[_Union[AuditError, _Mapping]] = ..., progress: _Optional[_Union[AuditProgress, _Mapping]] = ..., summary: _Optional[_Union[AuditSummary, _Mapping]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "versions", "provider", "threads", "devices", "limits", "methods", "operators", "uploads", "models", "loaded_models")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LOADED_MODELS_FIELD_NUMBER: _ClassVar[int]
    version: str
    versions: _containers.ScalarMap[str, str]
    provider: str
    threads: int
    devices: _containers.RepeatedScalarFieldContainer[int]
    limits: _containers.ScalarMap[str, float]
    methods: _containers.RepeatedScalarFieldContainer[str]
    operators: _containers.RepeatedScalarFieldContainer[str]
    uploads: bool
    models: int
    loaded_models: int
    def __init__(self, version: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., provider: _Optional[str] = ..., threads: _Optional[int] = ..., devices: _Optional[_Iterable[int]] = ..., limits: _Optional[_Mapping[str, float]] = ..., methods: _Optional[_Iterable[str]] = ..., operators: _Optional[_Iterable[str]] = ..., uploads: bool = ..., models: _Optional[int] = ..., loaded_models: _Optional[int] = ...) -> None: ...
