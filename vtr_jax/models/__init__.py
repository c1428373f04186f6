"""Device side: pure linen modules. They return arrays, never losses."""
