from sklearn.datasets import load_digits

from crosstask import Portfolio, Source, Task, TaskDescriptor, component, option


@component
class Threshold(Source):
    """Is a digit at least so large? One task for each threshold, on the digits of scikit-learn."""

    thresholds: tuple[int, ...] = option((3, 5), ge=1, le=9, help="one task each")

    def load(self):
        pixels, digits = load_digits(return_X_y=True)
        images = (pixels / 16).astype("float32").reshape(-1, 1, 8, 8)
        return Portfolio(self.task(images, digits, limit) for limit in self.thresholds)

    def task(self, images, digits, limit):
        known = TaskDescriptor(task_id=f"at_least_{limit}", input_shape=(1, 8, 8), output_dim=2)
        labels = (digits >= limit).astype("int64")
        return Task(descriptor=known, train=(images[:1200], labels[:1200]), test=(images[1200:], labels[1200:]))


portfolio = Threshold(thresholds=[2, 7]).load()
assert portfolio.ids == ["at_least_2", "at_least_7"]
assert len(portfolio["at_least_7"].data("test")) == 597
