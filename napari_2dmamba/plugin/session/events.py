"""What a session tells those who listen."""

from psygnal import Signal, SignalGroup


class SessionEvents(SignalGroup):
    """What happens in a session; all but the first tell which slide it is about.

    slides()
        A slide was opened or closed.
    current(slide)
        Another slide is looked at; None when the last one was closed.
    mpp(slide)
        It is shown with other µm per pixel. Its patches are outdated.
    choices(slide)
        How it is to be analysed; None while none is open.
    patches(slide)
        Tissue and patches were found, or are outdated, or cannot be found; or they are to be
        drawn or not.
    regions(slide)
        What is drawn to include or exclude.
    run(slide)
        Another run is on display, or none.
    maps(slide)
        Layers with maps have come or gone, or exports hold other maps.
    patch(slide)
        Another patch is selected, or none.
    work(slide)
        Something has begun or ended for it.
    comparison(slide)
        Another comparison is on display.
    layers(slide)
        Any of its layers has come or gone.
    """

    slides = Signal()
    current = Signal(object)
    mpp = Signal(object)
    choices = Signal(object)
    patches = Signal(object)
    regions = Signal(object)
    run = Signal(object)
    maps = Signal(object)
    patch = Signal(object)
    work = Signal(object)
    comparison = Signal(object)
    layers = Signal(object)
