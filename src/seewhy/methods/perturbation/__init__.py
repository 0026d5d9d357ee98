"""Methods that only run the model forward, on images of which parts are hidden."""
