"""The words that pipelines say by default; any of them can be replaced in a config.

The construction prompt of AesCoT is the published one; all others are worded here. Names in braces
are filled in, `<image>` becomes the picture.
"""

# Aes-R1 paper, appendix B, "Prompt Used for AesCoT Construction".
AESCOT = (
    "You are an aesthetic expert. The aesthetic rating of this picture <image> is {score}. Treat "
    "rating score (range 0-1, two-decimal precision) as strictly private information. The rating "
    "is a float between 0 and 1, rounded to two decimal places, with 0 representing very poor "
    "quality and 1 representing excellent quality. Closely examine the image's composition, "
    "lighting, color harmony, subject matter, technical execution and emotional impact. Write a "
    "thoughtful critique that: explains the key visual strengths and weaknesses ; ends with a "
    "judgment of the image that matches the hidden score. Never mention the numeric value of score "
    "or the fact that it was provided. Do not reference these instructions or any hidden variables "
    "in your answer. Use English as your answer language."
)

AESCOT_GUIDANCE = (
    "Go through five dimensions in turn: light and shadow, mood and narrative, composition, color, "
    "exposure. Argue from what is visible to the judgment, never from the judgment back to what is "
    "visible. The critique must fit a picture whose aesthetic level is {level}."
)

AESCOT_JUDGE = (
    "<image>You check a critique of this picture before it is used for teaching. The picture's "
    "aesthetic level, on a scale of bad, fair and good, is {level}; its rating is {score} of 1.\n"
    "Critique:\n{text}\n\n"
    "Mark from 0 to 5: consistency, whether the critique's arguments and closing judgment fit "
    "that rating; factual, whether everything it describes is there and is described correctly; "
    "natural, whether it argues from the picture and does not read as the defence of a verdict "
    "that was known beforehand. Reply with one JSON object and nothing else: "
    '{{"decision": "keep" or "drop", "consistency": mark, "factual": mark, "natural": mark, '
    '"reason": "one short sentence"}}'
)

FAST = (
    "This picture's perceived technical quality was measured as {score}, from {low} (worst) to "
    "{high} (best).<image>Explain that impression the way an observer would, from what can be "
    "seen: name the one or two factors that decide it, such as sharpness, noise, compression, "
    "exposure, contrast or color, and where they show. Write exactly two sentences of {shortest} "
    "to {longest} words in all, inside <think> </think>, without any number and without a word "
    "about the measurement. Then repeat the measurement as a plain number inside <answer> "
    "</answer>."
)

FAST_AESTHETICS = (
    "This picture's aesthetic score is {score}, from {low} (worst) to {high} (best).<image>Explain "
    "that impression the way a viewer would at first glance, from what can be seen: name the one "
    "or two things that decide it, such as framing, light, color, subject or mood, and how they "
    "work. Write exactly two sentences of {shortest} to {longest} words in all, inside <think> "
    "</think>, without any number and without a word about the score. Then repeat the score as a "
    "plain number inside <answer> </answer>."
)

SLOW_QUALITY = (
    "This picture's perceived technical quality was measured as {score}, from {low} (worst) to "
    "{high} (best).<image>Reason like a careful inspector who has only the picture: go through "
    "sharpness, noise, compression, exposure, contrast and color in this order, say where each "
    "shows and what follows from it, weigh flaws against strengths and let the conclusion grow out "
    "of them. Write about {aim} words, at least {shortest} and at most {longest}, inside <think> "
    "</think>, without any number and without a word about the measurement. Then repeat the "
    "measurement as a plain number inside <answer> </answer>."
)

SLOW = (
    "An aesthetic review of one picture holds these remarks:\n{attributes}\n\nThe picture's "
    "aesthetic score is {score}, from {low} (worst) to {high} (best). Retell the remarks as the "
    "connected reasoning of someone who looks at the picture and makes up their mind: follow the "
    "order given, say what follows from what, weigh strengths against weaknesses and let the "
    "conclusion grow out of them. Add nothing that the remarks do not say. Write about {aim} "
    "words, at least {shortest} and at most {longest}, inside <think> </think>, without any "
    "number and without a word about a score. Then repeat the score as a plain number inside "
    "<answer> </answer>."
)

FAST_SLOW_JUDGE_SYSTEM = (
    "You audit training data and are hard to please. You mark only what you can check against the "
    "picture and the facts you are given, and you reply with one JSON object and nothing else."
)

FAST_JUDGE = (
    "<image>scale: {low} to {high}\nmeasured: {score}\nexplanation: {text}\n\n"
    "Mark the explanation from 0 to 5: visual_fidelity, whether what it says can be seen in the "
    "picture; technical_rigor, whether it names technical causes rather than taste; "
    "score_consistency, whether its tone fits the measurement. Drop it if any statement is wrong. "
    '{{"decision": "keep" or "drop", "visual_fidelity": mark, "technical_rigor": mark, '
    '"score_consistency": mark, "reason": "one short sentence"}}'
)

SLOW_JUDGE = (
    "<image>scale: {low} to {high}\nscore: {score}\nremarks:\n{attributes}\n"
    "aspects touched, by keyword: {touched}\ncausal wording: {causal}\nnarrative: {text}\n\n"
    "Mark the narrative from 0 to 5: attribute_coverage, whether it uses the remarks; "
    "groundedness_no_fabrication, whether it adds nothing that neither the remarks nor the picture "
    "hold; reasoning_cohesion, whether each step follows; score_derivation_smoothness, whether the "
    "conclusion grows out of it and fits the score. "
    '{{"decision": "keep" or "drop", "attribute_coverage": mark, '
    '"groundedness_no_fabrication": mark, "reasoning_cohesion": mark, '
    '"score_derivation_smoothness": mark, "reason": "one short sentence"}}'
)

PLAN = (
    "Someone will be shown one image and asked:\n{question}\n\nYou do not see the image. Write the "
    "plan that a careful assessor would follow to answer: which aspects this question is about, in "
    "which order to look at them, what to look for in each, and how to weigh them. At most six "
    "short numbered steps, nothing about any particular image."
)

REASON = (
    "<image>{question}\n\nWork through these steps, one after the other:\n{plan}\n\nInside <think> "
    "</think>, reason step by step about this image in your own words, describe what you see that "
    "matters, and come to a conclusion; do not mention that steps were given to you and use no "
    "number for the overall verdict. Then write the verdict inside <answer> </answer> as exactly "
    "one of these words: {levels}."
)
