"""Equal values with unequal gradients; what a configuration forgets; what a loss should not do."""

from __future__ import annotations

from collections.abc import Iterator

from ._base import Cause, Evidence, Match, OptionCause, Row, register, shown

SECTION = "Gradients and configuration"


@register(SECTION)
class Ties(Cause):
    number, name = 39, "ties"
    title = "Where two inputs tie, or a norm is 0, the gradients differ"
    text = (
        "torch.maximum gives half of a tie's gradient to each, tf.maximum all of it to one (which, depends on the "
        "device); tf.norm has NaN at 0, PyTorch 0: equal values, unequal gradients, at these points alone."
    )
    torch = "torch.where(a >= b, a, b)  # says who gets the gradient"
    tf = "tf.where(a >= b, a, b)"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        ties = [row for row in evidence.of("ties") if row.value_same and not row.gradient_same]
        plain = [row for row in evidence.of("scale") if not row.gradient_same]
        if ties and not plain:
            yield Match(
                f"values agree and gradients do not on: {', '.join(row.probe.name for row in ties)}",
                probes=tuple(row.probe.name for row in ties),
            )


@register(SECTION)
class WeightDecay(OptionCause):
    number, name = 40, "l2-penalty"
    title = "L2: lambda times the squares, or half of it"
    text = (
        "Keras adds lambda * sum(w^2), whose gradient is 2 lambda w; PyTorch's weight_decay adds lambda w. Adam's "
        "weight_decay is part of the gradient in PyTorch, decoupled (AdamW) in Keras."
    )
    torch = "torch.optim.SGD(parameters, lr, weight_decay=2 * l)"
    tf = "keras.regularizers.L2(weight_decay / 2)"
    family = ("squared size",)
    option = "factor"


@register(SECTION)
class Config(Cause):
    number, name = 41, "lost-settings"
    title = "A loss that is made from its own configuration loses its settings"
    text = (
        "Keras 3.15.1's Huber(delta=2) comes back from get_config() with delta=1: a saved model trains with "
        "another loss."
    )
    torch = "torch.nn.HuberLoss(delta=2.0)"
    tf = (
        "class Huber2(keras.losses.Huber):\n"
        "    def get_config(self):\n"
        "        return {**super().get_config(), 'delta': 2.0}"
    )

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for side, about in (("a", evidence.about_a), ("b", evidence.about_b)):
            if about.config not in (None, "same"):
                what = "computes something else" if about.config == "other" else about.config
                yield Match(f"{side}, made again from its get_config(): {what}", weight=1.1)


@register(SECTION)
class Upstream(Cause):
    number, name = 56, "upstream-gradient"
    title = "A gradient of one's own that leaves out the gradient from above"
    text = (
        "A custom backward pass that does not multiply by the incoming gradient is wrong as soon as the loss is "
        "weighted or scaled."
    )
    torch = "return grad_output * gradient"
    tf = "return value, lambda upstream: upstream * gradient"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        rows = [row for row in evidence.of("upstream") if not row.gradient_same]
        if rows and next(iter(evidence.rows)).gradient_same:
            yield Match("gradients agree for an upstream gradient of 1, not of 3", probes=(rows[0].probe.name,))


def _gradient_only(row: Row) -> bool:
    return row.value_same and not row.gradient_same


@register(SECTION)
class Detached(Cause):
    number, name = 57, "no-gradient"
    title = "One side has no gradient, or only part of it"
    text = (
        "argmax, rounding, .detach(), .numpy() or tf.stop_gradient cut the graph: the value is right, the model "
        "does not learn."
    )
    torch = "work on tensors throughout; no .item(), .detach(), argmax between input and loss"
    tf = "no tf.stop_gradient, tf.argmax, .numpy() between y_pred and the loss"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        base = evidence.rows[0]
        for side, one, other in (("a", base.a, base.b), ("b", base.b, base.a)):
            if one.error is None and one.gradient is None and other.gradient is not None:
                yield Match(
                    f"{side} {'; '.join(one.notes) or 'has no gradient'}", probes=(base.probe.name,), weight=1.3
                )


@register(SECTION)
class GradientFactor(Cause):
    number, name = 58, "gradient-factor"
    title = "Equal values, but the gradients differ by a factor or everywhere"
    text = (
        "A gradient of one's own (a custom backward pass, a hook, a stop_gradient) is not the derivative of the value."
    )
    torch = "compare with torch.autograd.gradcheck(loss, (x.double(),))"
    tf = "compare with tf.test.compute_gradient(loss, [x])"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        import numpy as np

        rows = [row for row in evidence.of("scale") if _gradient_only(row)]
        if not rows or len(rows) < len(evidence.of("scale")):
            return
        ratios = []
        for row in rows:
            if row.a.gradient is not None and row.b.gradient is not None and np.any(row.a.gradient):
                ratios.append(float(np.vdot(row.a.gradient, row.b.gradient) / np.vdot(row.a.gradient, row.a.gradient)))
        if ratios:
            spread = max(ratios) - min(ratios)
            factor = f": b's are about {shown(ratios[0])} times a's" if spread < 1e-3 * abs(ratios[0]) else ""
            names = tuple(row.probe.name for row in rows)
            yield Match(f"values agree, gradients do not{factor}", probes=names, weight=0.4)


@register(SECTION)
class SideEffects(Cause):
    number, name = 59, "side-effects"
    title = "A loss that changes its input, the global state, or draws random numbers"
    text = "What it returns, or what others compute after it, then depends on when it is called."
    torch = "x = x.clone()  # before changing it in place; a torch.Generator of its own"
    tf = "use tf.random.Generator, and leave global settings alone"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for side in ("a", "b"):
            for row in evidence.rows[:1]:
                notes = [n for n in getattr(row, side).notes if n.startswith(("changes", "uses"))]
                moving = any("from call to call" in note for note in notes)
                if notes:  # of a loss that gives another value each time, nothing else can be said
                    yield Match(f"{side} {'; '.join(notes)}", weight=50.0 if moving else 0.4, edge=not moving)
